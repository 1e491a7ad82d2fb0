# A token per region of the image: backbone and weights of hook-objects-small_rgb, and a small head.
# 0.6 million weights, and a high learning rate for few steps.
_base_ = ["hook-objects_vit-192x2_banepa-256.py"]
channels = (24, 32, 40, 48)
model = dict(
    backbone=dict(
        tokenizer=dict(size="small"),
        embed_dims=96,
        depth=3,
        num_heads=3,
        mlp_ratio=2,
        out_indices=(2,),
    ),
    neck=dict(seed_channels=64, out_channels=channels),
    decode_head=dict(in_channels=list(channels), token_channels=96, channels=32),
    auxiliary_head=dict(in_channels=96, channels=96),
)
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
load_from = "hook://hook-objects-small_rgb"
