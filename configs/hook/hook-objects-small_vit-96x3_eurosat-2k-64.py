# A small model that starts from the one that comes with HOOK and learned without labels, trained at
# several scales: its scores hold where pixels are three quarters to twice as large.
_base_ = ["hook-objects_vit-192x6_eurosat-2k-64.py"]
model = dict(
    data_preprocessor=dict(scales=[0.75, *[1.0] * 6, 1.5, 2.0]),
    backbone=dict(
        tokenizer=dict(size="small", seed_dims=None),
        embed_dims=96,
        depth=3,
        num_heads=3,
        mlp_ratio=2,
    ),
    head=dict(in_channels=96),
)
load_from = "hook://hook-objects-small_rgb"
# Half as many epochs more: as many steps at the images' own size as in the other recipes.
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=30, T_max=28),
]
train_cfg = dict(max_epochs=30)
