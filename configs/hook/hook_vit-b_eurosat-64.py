# HOOK with ViT-B on EuroSAT's visible bands, with the paper's recipe for scene classification.
_base_ = [
    "../_base_/models/hook_vit-b_cls.py",
    "../_base_/datasets/eurosat_64.py",
    "../_base_/schedules/cls_adamw_100e.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(tokenizer=dict(img_size=64)),
    head=dict(num_classes=10),
    data_preprocessor=_base_.data_preprocessor,
)
