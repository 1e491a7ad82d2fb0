# Patch embedding without positions, ViT-B on GID5, the paper's recipe.
_base_ = [
    "../_base_/models/patch_embed_vit-b_seg.py",
    "../_base_/datasets/gid5_512.py",
    "../_base_/schedules/seg_adamw_100e_warmup.py",
    "../_base_/default_runtime.py",
]
default_scope = "mmseg"
model = dict(decode_head=dict(num_classes=5), data_preprocessor=_base_.data_preprocessor)
