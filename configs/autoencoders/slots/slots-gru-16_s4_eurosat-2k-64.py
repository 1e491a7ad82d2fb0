# 16 slots of four codes, the 640 bits of a tile that vq-1k_s8_eurosat-2k-64 has. EfficientNet-Lite0
# sees the tiles enlarged twice, as in va-vae-32. Not trained yet.
_base_ = [
    "../../_base_/models/slot_autoencoder.py",
    "../../_base_/datasets/eurosat_2k.py",
    "../../_base_/schedules/codec_20e.py",
]
data_preprocessor = dict(_delete_=True, type="hook.CodecDataPreProcessor", value_range=(0, 255))
model = dict(
    encoder=dict(tokenizer=dict(img_size=64, num_tokens=16)),
    decoder=dict(num_slots=16, feature_pool=2),
    frozen=dict(scale=2.0),
    losses=[
        dict(type="hook.PixelLoss", norm="l2"),
        dict(type="hook.AlignmentLoss", in_channels=96, feature_channels=112, weight=0.1),
    ],
)
# Features are computed once, of images that are neither shifted nor mirrored.
train_dataloader = dict(dataset=dict(pipeline=[dict(type="hook.PackClsSample")]))
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=4e-4, weight_decay=0.01), clip_grad=dict(max_norm=1.0)
)
val_evaluator = [
    dict(type="hook.ReconstructionMetric", data_range=255),
    dict(type="hook.CodebookMetric"),
]
test_evaluator = val_evaluator
custom_hooks = [*_base_.custom_hooks, dict(type="hook.FrozenFeatureHook")]
