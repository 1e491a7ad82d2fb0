# HOOK with six tokens and 128-channel seeds and a ViT of width 192 and depth 6, on EuroSAT.
_base_ = [
    "../_base_/models/hook_vit-b_cls.py",
    "../_base_/datasets/eurosat_2k.py",
    "../_base_/schedules/eurosat_20e.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        tokenizer=dict(img_size=64, seed_dims=128, num_tokens=6),
        embed_dims=192,
        depth=6,
        num_heads=6,
    ),
    head=dict(num_classes=10, in_channels=192),
    data_preprocessor=_base_.data_preprocessor,
)
