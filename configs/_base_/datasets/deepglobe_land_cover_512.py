# DeepGlobe land cover (DGLCC): 2,000 tiles to train, 2,500 to test. "Unknown" (6) is ignored.
#   python tools/dataset_tools/prepare_deepglobe_land_cover.py <download> data/deepglobe_land_cover
dataset_type = "hook.TorchGeoSegmentation"
data_root = "data/deepglobe_land_cover"
metainfo = dict(
    classes=(
        "Urban land",
        "Agriculture land",
        "Rangeland",
        "Forest land",
        "Water",
        "Barren land",
    ),
    palette=[
        [0, 255, 255],
        [255, 255, 0],
        [255, 0, 255],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 255],
    ],
    bands=("red", "green", "blue"),
    mean=[123.675, 116.28, 103.53],  # ImageNet's, in units of 0 to 255
    std=[58.395, 57.12, 57.375],
    resolution=0.5,
)
data_preprocessor = dict(
    type="hook.SegDataPreProcessor", mean=metainfo["mean"], std=metainfo["std"]
)

train_pipeline = [
    dict(
        type="hook.Albumentations",
        transforms=[
            dict(type="GaussianBlur", blur_limit=(5, 9), sigma_limit=(0.1, 2.0), p=0.5),
            dict(
                type="ColorJitter",
                brightness=(0.9, 1.1),
                contrast=(0.9, 1.1),
                saturation=(0.9, 1.1),
                hue=(-0.1, 0.1),
                p=1.0,
            ),
        ],
    ),
    dict(type="hook.PackSegSample"),
]
test_pipeline = [dict(type="hook.PackSegSample")]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        dataset="DeepGlobeLandCover",
        data_root=data_root,
        dataset_args=dict(split="train"),
        label_map={6: 255},
        dtype="uint8",
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        dataset="DeepGlobeLandCover",
        data_root=data_root,
        dataset_args=dict(split="test"),
        label_map={6: 255},
        dtype="uint8",
        metainfo=metainfo,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
# The data set has no validation split: the paper reports the last epoch on the test tiles.
test_dataloader = val_dataloader
val_evaluator = dict(type="hook.IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
