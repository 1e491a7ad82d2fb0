# HOOK with ViT-B on WHU-RS19, the paper's recipe.
_base_ = [
    "../_base_/models/hook_vit-b_cls.py",
    "../_base_/datasets/whu_rs19_224.py",
    "../_base_/schedules/cls_adamw_100e.py",
    "../_base_/default_runtime.py",
]
model = dict(head=dict(num_classes=19), data_preprocessor=_base_.data_preprocessor)
