# The building segmenter of the package, below half a million weights.
_base_ = ["hook-fast-skip_vit-192x6_banepa-256.py"]
channels = (24, 32, 40, 40)
model = dict(
    backbone=dict(
        tokenizer=dict(seed_dims=64),
        embed_dims=64,
        depth=4,
        num_heads=2,
        mlp_ratio=2,
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(in_channels=64, seed_channels=64, out_channels=channels),
    decode_head=dict(in_channels=list(channels), channels=32),
)
