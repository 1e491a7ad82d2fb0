# As lightningdit-256x6_kl-32, whose second block is also drawn towards features of
# EfficientNet-Lite0, which sees the tiles enlarged twice: its map at stride 16 has a position per
# token. It was trained on natural images (pip install hook-rs[perceptual]). Not trained yet.
_base_ = ["lightningdit-256x6_kl-32_eurosat-2k-64.py"]
model = dict(
    frozen=dict(type="hook.FrozenBackbone", levels=(3,), scale=2.0),
    network=dict(alignment=dict(block=1, feature_channels=112)),
)
