# Banepa buildings, a folder of GeoTIFFs: 48 aerial chips of 512 px at about 0.13 m with building
# masks; 32 training, 8 validation and 8 test chips in separate columns.
#   python tools/dataset_tools/prepare_banepa.py <clone of fAIr-models> data/banepa_buildings
# For your own folder set data_root, metainfo (mean and std from
# tools/dataset_tools/compute_statistics.py) and the lists in splits/. Masks may be a vector file:
#   masks="buildings.gpkg", label="building", background="background"
#
# Imagery: OpenAerialMap contributors, CC BY 4.0 (item 62d85d11d8499800053796c1), via HOTOSM fAIr.
# Building footprints (c) OpenStreetMap contributors, ODbL.
data_root = "data/banepa_buildings"
img_size = 256
metainfo = dict(
    classes=("background", "building"),
    palette=[[225, 225, 215], [200, 65, 50]],
    bands=("red", "green", "blue"),
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    resolution=0.13,
)
data_preprocessor = dict(
    type="hook.SegDataPreProcessor",
    mean=metainfo["mean"],
    std=metainfo["std"],
    size=(img_size, img_size),
)
train_pipeline = [
    dict(
        type="hook.Albumentations",
        transforms=[
            dict(type="D4", p=1.0),
            dict(
                type="ColorJitter",
                brightness=(0.8, 1.2),
                contrast=(0.8, 1.2),
                saturation=(0.8, 1.2),
                hue=(-0.05, 0.05),
                p=0.8,
            ),
        ],
    ),
    dict(type="hook.PackSegSample"),
]
test_pipeline = [dict(type="hook.PackSegSample")]
folder = dict(
    type="hook.GeoTIFFFolder",
    data_root=data_root,
    images="images",
    masks="masks",
    metainfo=metainfo,
    chip_size=img_size,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="hook.RandomGeoSampler"),
    dataset=dict(
        **folder,
        mode="random",
        length=128,  # chips per epoch, as many as cover the training images
        split="splits/train.txt",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**folder, split="splits/val.txt", test_mode=True, pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**folder, split="splits/test.txt", test_mode=True, pipeline=test_pipeline),
)
val_evaluator = [
    dict(type="hook.IoUMetric", iou_metrics=["mIoU"]),  # first: save_best="auto" uses its mIoU
    dict(type="hook.BoundaryMetric", tolerance=3),  # pixels, 0.4 m
]
test_evaluator = val_evaluator
