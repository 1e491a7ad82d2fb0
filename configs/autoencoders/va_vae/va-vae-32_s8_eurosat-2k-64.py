# As kl-32, with latents aligned to features of EfficientNet-Lite0 (VA-VAE), which sees the tiles
# enlarged twice: its map at stride 16 has a position per latent. It was trained on natural images
# (pip install hook-rs[perceptual]).
_base_ = ["../kl/kl-32_s8_eurosat-2k-64.py"]
model = dict(
    frozen=dict(type="hook.FrozenBackbone", levels=(3,), scale=2.0),
    losses=[
        dict(type="hook.PixelLoss", norm="l2"),
        dict(
            type="hook.AlignmentLoss",
            in_channels=32,
            feature_channels=112,
            weight=0.1,
            adaptive=True,
        ),
    ],
)
# Its features are computed once, of images that are neither shifted nor mirrored.
train_dataloader = dict(dataset=dict(pipeline=[dict(type="hook.PackClsSample")]))
custom_hooks = [*_base_.custom_hooks, dict(type="hook.FrozenFeatureHook")]
