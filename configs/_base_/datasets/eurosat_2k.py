# EuroSAT RGB, a small subset: 1,200 training, 400 validation and 3,000 test images, of
# data/eurosat_rgb and data/eurosat_rgb_15k, as listed in configs/_base_/splits/eurosat.
#   python tools/dataset_tools/prepare_eurosat.py <EuroSAT_RGB folder or zip> data
dataset_type = "hook.TorchGeoClassification"
data_root = "data/eurosat_rgb"
test_data_root = "data/eurosat_rgb_15k"
metainfo = dict(
    classes=(
        "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
        "PermanentCrop", "Residential", "River", "SeaLake",
    ),
    bands=("red", "green", "blue"),
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    resolution=10.0,
)  # fmt: skip
data_preprocessor = dict(
    type="hook.ClsDataPreProcessor", mean=metainfo["mean"], std=metainfo["std"]
)

train_pipeline = [
    dict(
        type="hook.Albumentations",
        transforms=[
            # Random crops after padding by four pixels, as usual for 64 px images.
            dict(type="PadIfNeeded", min_height=72, min_width=72, border_mode=4),
            dict(type="RandomCrop", height=64, width=64),
            dict(type="HorizontalFlip", p=0.5),
            dict(type="VerticalFlip", p=0.5),
        ],
    ),
    dict(type="hook.PackClsSample"),
]
test_pipeline = [dict(type="hook.PackClsSample")]

train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        dataset="EuroSATRGB",
        data_root=data_root,
        split_list="splits/train.txt",
        dtype="uint8",
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        dataset="EuroSATRGB",
        data_root=data_root,
        split_list="splits/val.txt",
        dtype="uint8",
        metainfo=metainfo,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        dataset="EuroSATRGB",
        data_root=test_data_root,
        split_list="splits/test.txt",
        dtype="uint8",
        metainfo=metainfo,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
val_evaluator = dict(type="hook.Accuracy", topk=(1,))
test_evaluator = val_evaluator
