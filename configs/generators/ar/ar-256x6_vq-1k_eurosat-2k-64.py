# A transformer predicts the codes of vq-1k one after the other, by class. For a CPU; it starts from
# the trained autoencoder:
#   python tools/train.py configs/autoencoders/vq/vq-1k_s8_eurosat-2k-64.py
_base_ = ["../../autoencoders/vq/vq-1k_s8_eurosat-2k-64.py"]
model = dict(
    _delete_=True,
    type="hook.TileGenerator",
    codec=_base_.model,
    codec_weights="work_dirs/vq-1k_s8_eurosat-2k-64/epoch_20.pth",
    network=dict(type="hook.CodeTransformer", embed_dims=256, depth=6, num_heads=8, drop_rate=0.1),
    tile_size=64,
    condition="class",
    num_classes=10,
    turn=True,
)
train_dataloader = dict(
    batch_size=64,
    dataset=dict(pipeline=[dict(type="hook.PackClsSample")]),  # the model turns the images
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05),
    # The official trainers of Open-MAGVIT2 and IBQ decay norms and biases, too.
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
# As the official schedule: warm-up, flat for 5 % of the rest, linear to a tenth.
param_scheduler = [
    dict(type="LinearLR", start_factor=0.005, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(
        type="LinearLR",
        start_factor=1.0,
        end_factor=0.1,
        by_epoch=True,
        begin=4,
        end=33,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=33, val_interval=3)
auto_scale_lr = dict(enable=False, base_batch_size=64)
val_evaluator = [dict(type="hook.CodebookMetric")]
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best="codes/model_bits", rule="less"))
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.CodeCacheHook"),
    dict(type="EMAHook", ema_type="hook.WeightEMA", momentum=0.01),
]
