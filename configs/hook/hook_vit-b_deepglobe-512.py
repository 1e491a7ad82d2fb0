# HOOK with ViT-B on DGLCC (DeepGlobe land cover), the paper's recipe.
_base_ = [
    "../_base_/models/hook_vit-b_seg.py",
    "../_base_/datasets/deepglobe_land_cover_512.py",
    "../_base_/schedules/seg_adamw_100e.py",
    "../_base_/default_runtime.py",
]
default_scope = "mmseg"
model = dict(decode_head=dict(num_classes=6), data_preprocessor=_base_.data_preprocessor)
