# Open-MAGVIT2's transformer B for ImageNet at 256 pixels (343.6 M parameters; arXiv:2409.04410),
# with the official rotary row of zeros. Sampling as published.
_base_ = ["open_magvit2_f16.py"]
model = dict(
    _delete_=True,
    type="hook.TileGenerator",
    codec=_base_.model,
    network=dict(
        type="hook.FactorizedTransformer",
        embed_dims=1024,
        depth=24,
        factor_depth=2,
        num_heads=16,
        mlp_multiple=256,
        start_rotary="zero",
        drop_rate=0.1,
        sampling=dict(guidance=(1.9, 2.0)),
    ),
    tile_size=256,
    condition="class",
    num_classes=1000,
)
