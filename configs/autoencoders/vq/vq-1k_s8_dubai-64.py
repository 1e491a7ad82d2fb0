# As vq-1k_s8_eurosat-2k-64, on tiles of 64 px of the Dubai land cover, whose masks are the
# condition of a generator (configs/generators/ar/ar-256x6-map_vq-1k_dubai-64.py). Not trained yet.
_base_ = [
    "../../_base_/models/tile_autoencoder.py",
    "../../_base_/datasets/dubai_landcover_256.py",
    "../../_base_/schedules/codec_20e.py",
]
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
