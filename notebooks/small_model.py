# Model of the notebooks: below half a million weights, with a high learning rate for few steps.
# Pixels without data belong to no token. hook.apis.train sets data, classes, chip size and epochs.
_base_ = ["../configs/hook/hook-fast-skip_vit-192x6_banepa-256.py"]
channels = (24, 32, 40, 48)
model = dict(
    backbone=dict(
        tokenizer=dict(seed_dims=64),
        embed_dims=64,
        depth=4,
        num_heads=2,
        mlp_ratio=2,
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(in_channels=64, seed_channels=64, out_channels=channels),
    decode_head=dict(in_channels=list(channels), channels=32),
    data_preprocessor=dict(mark_invalid=True),
)
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
val_evaluator = [dict(_delete_=True, type="hook.IoUMetric", iou_metrics=["mIoU"])]
test_evaluator = val_evaluator
