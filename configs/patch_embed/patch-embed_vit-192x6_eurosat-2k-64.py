# The paper's baseline without positions, with 64 patches of 8 pixels.
_base_ = [
    "../_base_/models/patch_embed_vit-b_cls.py",
    "../_base_/datasets/eurosat_2k.py",
    "../_base_/schedules/eurosat_20e.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        tokenizer=dict(img_size=64, patch_size=8, with_cls_token=False),
        embed_dims=192,
        depth=6,
        num_heads=6,
    ),
    head=dict(num_classes=10, in_channels=192, pooling="mean"),
    data_preprocessor=_base_.data_preprocessor,
)
