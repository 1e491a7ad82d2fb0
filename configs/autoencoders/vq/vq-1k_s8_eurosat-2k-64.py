# 1,024 codes at stride 8 (0.16 bits per pixel) on the small EuroSAT lot, for a CPU: squared error,
# moving averages of codes and weights.
_base_ = [
    "../../_base_/models/tile_autoencoder.py",
    "../../_base_/datasets/eurosat_2k.py",
    "../../_base_/default_runtime.py",
]
data_preprocessor = dict(_delete_=True, type="hook.CodecDataPreProcessor", value_range=(0, 255))
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=3e-4))
param_scheduler = [dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100)]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=20, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=32)
val_evaluator = [
    dict(type="hook.ReconstructionMetric", data_range=255),
    dict(type="hook.CodebookMetric"),
]
test_evaluator = val_evaluator
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.ChannelsLastHook"),
    dict(type="EMAHook", ema_type="hook.WeightEMA", momentum=0.01),
]
