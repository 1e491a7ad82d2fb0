# The network of vq-1k-tiny_s8_rgb-64 for a scene of one's own, without labels: here eight bands of
# Sentinel-2, the western half of a scene to train and the eastern to validate and test. For other
# scenes replace the files, bands, nodata, mean and std (tools/dataset_tools/compute_statistics.py).
_base_ = ["vq-1k-tiny_s8_rgb-64.py"]
train_images = "data/scene/west.tif"
test_images = "data/scene/east.tif"
metainfo = dict(
    bands=("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08"),
    nodata=255,
    mean=[82.4, 67.5, 55.7, 35.2, 31.3, 29.8, 31.9, 28.8],
    std=[9.4, 12.5, 15.1, 21.3, 24.3, 36.1, 42.7, 43.5],
)
data_preprocessor = dict(
    _delete_=True,
    type="hook.CodecDataPreProcessor",
    mean=metainfo["mean"],
    std=metainfo["std"],
)
model = dict(
    data_preprocessor=data_preprocessor,
    encoder=dict(in_channels=len(metainfo["bands"])),
    decoder=dict(out_channels=len(metainfo["bands"])),
)
scene = dict(
    _delete_=True,
    type="hook.GeoTIFFFolder",
    metainfo=metainfo,
    chip_size=64,
    pipeline=[dict(type="hook.PackSegSample")],
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type="hook.RandomGeoSampler"),
    dataset=dict(**scene, images=train_images, mode="random", length=64000),
)
val_dataloader = dict(
    dataset=dict(**scene, images=test_images, test_mode=True),
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type="hook.ReconstructionMetric", data_range=255),
    dict(type="hook.CodebookMetric"),
]
test_evaluator = val_evaluator
train_cfg = dict(max_iters=2000, val_interval=2000)
