# IBQ's transformer B for ImageNet at 256 pixels (342 M parameters; arXiv:2412.02692), with AdaLN
# and the official rotary row of zeros. Sampling as published.
_base_ = ["ibq_f16.py"]
model = dict(
    _delete_=True,
    type="hook.TileGenerator",
    codec=_base_.model,
    network=dict(
        type="hook.CodeTransformer",
        embed_dims=1024,
        depth=16,
        num_heads=16,
        mlp_multiple=256,
        adaptive_norm=True,
        gate_init=1e-3,
        start_rotary="zero",
        drop_rate=0.1,
        sampling=dict(temperature=1.1, guidance=2.25),
    ),
    tile_size=256,
    condition="class",
    num_classes=1000,
)
