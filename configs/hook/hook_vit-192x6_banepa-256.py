# HOOK with eight tokens and 128-channel seeds and a ViT of width 192 and depth 6, on folders of
# GeoTIFFs with building masks.
_base_ = [
    "../_base_/models/hook_vit-b_seg.py",
    "../_base_/datasets/banepa_buildings_256.py",
    "../_base_/schedules/banepa_12e.py",
    "../_base_/default_runtime.py",
]
default_scope = "mmseg"
model = dict(
    backbone=dict(
        tokenizer=dict(img_size=256, seed_dims=128, num_tokens=8),
        embed_dims=192,
        depth=6,
        num_heads=6,
        out_indices=(1, 2, 4, 5),
    ),
    neck=dict(in_channels=192, out_channels=(64, 96, 128, 128)),
    decode_head=dict(in_channels=[64, 96, 128, 128], channels=96, num_classes=2),
    data_preprocessor=_base_.data_preprocessor,
)
