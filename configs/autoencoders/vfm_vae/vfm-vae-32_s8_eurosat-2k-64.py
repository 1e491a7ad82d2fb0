# Gaussian latents of 32 channels from features of EfficientNet-Lite0 that are not trained, and a
# decoder of three stages (VFM-VAE). The frozen network sees the tiles enlarged twice; it was
# trained on natural images (pip install hook-rs[perceptual]).
_base_ = ["../kl/kl-32_s8_eurosat-2k-64.py"]
model = dict(
    encoder=dict(
        _delete_=True,
        type="hook.FusionEncoder",
        backbone=dict(type="hook.FrozenBackbone", levels=(1, 2, 3), scale=2.0),
        level_channels=(24, 40, 112),
        level_strides=(2, 4, 8),
        mid_channels=(8, 16, 64),
        out_channels=64,
        stride=8,
        projection="conv",
    ),
    decoder=dict(
        _delete_=True,
        type="hook.ProgressiveDecoder",
        in_channels=32,
        out_channels=3,
        stride=8,
        # A third of the time of two blocks and 32 channels at the end.
        stage_channels=(128, 64, 16),
        num_blocks=1,
        latent_channels=(128,),
        attn_stages=1,
        decompress_factor=4,
        decompression="conv",
        code_dims=128,
    ),
    losses=[
        dict(type="hook.PixelLoss", norm="l2"),
        dict(type="hook.PixelLoss", norm="l2", stages=True, weight=0.1),
    ],
)
# The features are computed once, of images that are neither shifted nor mirrored.
train_dataloader = dict(dataset=dict(pipeline=[dict(type="hook.PackClsSample")]))
custom_hooks = [*_base_.custom_hooks, dict(type="hook.FrozenFeatureHook")]
