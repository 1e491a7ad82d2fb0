# Patch embedding with a ViT of width 192 and depth 6, for images of 256 px on a CPU.
_base_ = ["patch_embed_vit-b_seg.py"]
model = dict(
    backbone=dict(
        tokenizer=dict(img_size=256),
        embed_dims=192,
        depth=6,
        num_heads=6,
        out_indices=(1, 2, 4, 5),
    ),
    neck=dict(in_channels=192, out_channels=(64, 96, 128, 128)),
    decode_head=dict(in_channels=[64, 96, 128, 128], channels=96),
)
