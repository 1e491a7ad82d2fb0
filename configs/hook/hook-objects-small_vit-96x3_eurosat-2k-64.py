# A small model from the one without labels that comes with HOOK, trained at several scales: its
# scores hold at three quarters to twice the pixel size of training.
_base_ = ["hook-objects_vit-192x6_eurosat-2k-64.py"]
model = dict(
    data_preprocessor=dict(scales=[0.75, 1.0, 1.0, 1.0, 1.0, 1.5, 2.0]),
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
