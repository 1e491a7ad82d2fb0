# Patch embedding without positions, ViT-B on full Banepa chips of 512 px, for a GPU.
_base_ = [
    "../_base_/models/patch_embed_vit-b_seg.py",
    "../_base_/datasets/banepa_buildings_512.py",
    "../_base_/schedules/banepa_12e.py",
    "../_base_/default_runtime.py",
]
default_scope = "mmseg"
model = dict(decode_head=dict(num_classes=2), data_preprocessor=_base_.data_preprocessor)
