# The network of hook-vq-tiny_rgb, on tiles of 64 px of the Dubai land cover alone. Not trained yet:
# configs/generators/ar/ar-256x6-map_vq-1k-tiny_dubai-64.py, to which masks of these tiles are the
# condition, takes the weights of hook-vq-tiny_rgb, which has seen them.
_base_ = [
    "../../_base_/models/tile_autoencoder.py",
    "../../_base_/datasets/dubai_landcover_256.py",
    "../../_base_/schedules/codec_20e.py",
]
model = dict(
    encoder=dict(embed_dims=32, out_channels=16),
    quantizer=dict(embed_dims=16),
    decoder=dict(embed_dims=36, in_channels=16),
)
data_preprocessor = dict(_delete_=True, type="hook.CodecDataPreProcessor", value_range=(0, 255))
train_dataloader = dict(
    batch_size=32,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        mode="cover",  # 16 tiles of each window
        length=None,
        chip_size=64,
        pipeline=[
            dict(type="hook.Albumentations", transforms=[dict(type="D4", p=1.0)]),
            dict(type="hook.PackSegSample"),
        ],
    ),
)
val_dataloader = dict(batch_size=64, dataset=dict(chip_size=64))
test_dataloader = dict(batch_size=64, dataset=dict(chip_size=64))
train_cfg = dict(max_epochs=3, val_interval=1)  # of 15,840 tiles
val_evaluator = [
    dict(type="hook.ReconstructionMetric", data_range=255),
    dict(type="hook.CodebookMetric"),
]
test_evaluator = val_evaluator
