# The classifier of the package, below half a million weights, on the 15,000-image subset (12,000
# training and 3,000 test images). The last epoch is used, without validation images.
_base_ = ["hook-fast_vit-192x6_eurosat-2k-64.py"]
model = dict(
    backbone=dict(tokenizer=dict(seed_dims=64), embed_dims=96, depth=3, num_heads=3, mlp_ratio=2),
    head=dict(in_channels=96),
)
train_dataloader = dict(dataset=dict(data_root="data/eurosat_rgb_15k"))
val_dataloader = None
val_evaluator = None
val_cfg = None
default_hooks = dict(checkpoint=dict(save_best=None))
