# Autoencoders of tiles: Adam, 20 passes over a small lot, moving averages of the weights.
_base_ = ["../default_runtime.py"]
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=3e-4))
param_scheduler = [dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100)]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=20, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=32)
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.ChannelsLastHook"),
    dict(type="EMAHook", ema_type="hook.WeightEMA", momentum=0.01),
]
