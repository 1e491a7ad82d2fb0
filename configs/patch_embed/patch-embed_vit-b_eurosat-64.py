# Patch embedding without positions, ViT-B on EuroSAT, the paper's recipe for scenes.
_base_ = [
    "../_base_/models/patch_embed_vit-b_cls.py",
    "../_base_/datasets/eurosat_64.py",
    "../_base_/schedules/cls_adamw_100e.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(tokenizer=dict(img_size=64, patch_size=8)),
    head=dict(num_classes=10),
    data_preprocessor=_base_.data_preprocessor,
)
