# Patch embedding with learned positions on the Dubai land cover.
_base_ = [
    "../_base_/models/patch_embed_vit-192x6_seg.py",
    "../_base_/datasets/dubai_landcover_256.py",
    "../_base_/schedules/dubai_8e.py",
    "../_base_/default_runtime.py",
]
default_scope = "mmseg"
model = dict(
    backbone=dict(tokenizer=dict(with_pos_embed=True)),
    decode_head=dict(num_classes=5),
    data_preprocessor=_base_.data_preprocessor,
)
