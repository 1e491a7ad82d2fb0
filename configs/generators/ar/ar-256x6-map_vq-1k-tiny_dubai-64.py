# As ar-256x6_vq-1k-tiny_eurosat-2k-64, by a map of the land cover: the class of each position is
# added to the token that predicts it. tools/generate.py --mask fills masks of any size with it.
_base_ = ["../../autoencoders/vq/vq-1k-tiny_s8_dubai-64.py"]
model = dict(
    _delete_=True,
    type="hook.TileGenerator",
    codec=_base_.model,
    codec_weights="hook://hook-vq-tiny_rgb",
    network=dict(type="hook.CodeTransformer", embed_dims=256, depth=6, num_heads=8, drop_rate=0.1),
    tile_size=64,
    condition="map",
    num_classes=5,
    turn=True,
)
train_dataloader = dict(
    batch_size=64,
    dataset=dict(pipeline=[dict(type="hook.PackSegSample")]),  # the model turns images and maps
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.005, by_epoch=False, end=40),
    dict(type="LinearLR", start_factor=1.0, end_factor=0.1, by_epoch=False, begin=70, end=740),
]
val_evaluator = [dict(type="hook.CodebookMetric")]
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best="codes/model_bits", rule="less"))
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.CodeCacheHook"),
    dict(type="EMAHook", ema_type="hook.WeightEMA", momentum=0.01),
]
