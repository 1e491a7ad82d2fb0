# DnD-Transformer XXL for ImageNet at 256 pixels (1,436 M parameters; arXiv:2410.01912), with the
# official rotary row of zeros, and one table for both codes. Sampling as published.
_base_ = ["rqvae_f16d2.py"]
model = dict(
    _delete_=True,
    type="hook.TileGenerator",
    codec=_base_.model,
    network=dict(
        type="hook.DepthTransformer",
        embed_dims=1536,
        depth=48,
        num_heads=24,
        head_blocks=(39, 47),
        mlp_multiple=256,
        start_rotary="zero",
        drop_rate=0.1,
        sampling=dict(guidance=2.0),
    ),
    tile_size=256,
    condition="class",
    num_classes=1000,
)
