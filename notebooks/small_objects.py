# Model of notebook 2: a token per region of the image, with the backbone of hook-objects-small_rgb.
# Below a million weights, with a high learning rate for few steps. hook.apis.train sets data,
# classes, chip size and epochs.
_base_ = ["../configs/hook/hook-objects_vit-192x2_banepa-256.py"]
channels = (24, 32, 40, 48)
model = dict(
    backbone=dict(
        tokenizer=dict(size="small"),
        embed_dims=96,
        depth=3,
        num_heads=3,
        mlp_ratio=2,
        out_indices=(2,),
    ),
    neck=dict(seed_channels=64, out_channels=channels),
    decode_head=dict(in_channels=list(channels), token_channels=96, channels=32),
    auxiliary_head=dict(in_channels=96, channels=96),
)
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
val_evaluator = [dict(_delete_=True, type="hook.IoUMetric", iou_metrics=["mIoU"])]
test_evaluator = val_evaluator
