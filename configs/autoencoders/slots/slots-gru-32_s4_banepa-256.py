# 32 slots of an aerial image of 256 px (0.02 bits per pixel). Not trained yet.
_base_ = [
    "../../_base_/models/slot_autoencoder.py",
    "../../_base_/datasets/banepa_buildings_256.py",
    "../../_base_/schedules/codec_20e.py",
]
data_preprocessor = dict(_delete_=True, type="hook.CodecDataPreProcessor", value_range=(0, 255))
train_dataloader = dict(
    dataset=dict(
        length=1024,
        pipeline=[
            dict(type="hook.Albumentations", transforms=[dict(type="D4", p=1.0)]),
            dict(type="hook.PackSegSample"),
        ],
    )
)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=4e-4, weight_decay=0.01), clip_grad=dict(max_norm=1.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=20, eta_min=1e-6),
]
auto_scale_lr = dict(base_batch_size=8)
val_evaluator = [
    dict(type="hook.ReconstructionMetric", data_range=255),
    dict(type="hook.CodebookMetric"),
]
test_evaluator = val_evaluator
