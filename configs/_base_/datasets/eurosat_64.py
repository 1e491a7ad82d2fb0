# TorchGeo's EuroSAT: visible bands of 13-band Sentinel-2 level-1C GeoTIFFs of 64 x 64 px, with
# TorchGeo's splits (16,200 / 5,400 / 5,400).
#   python tools/dataset_tools/prepare_eurosat.py EuroSATallBands.zip data
# For other bands change rgb_bands, mean and std (torchgeo.datamodules.eurosat lists them),
# and the model's in_channels.
dataset_type = "hook.TorchGeoClassification"
data_root = "data/eurosat"
rgb_bands = ("B04", "B03", "B02")
metainfo = dict(
    classes=(
        "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
        "PermanentCrop", "Residential", "River", "SeaLake",
    ),
    bands=rgb_bands,
    mean=[947.63, 1042.93, 1118.24],  # of the training images, in stored units
    std=[593.75, 395.09, 333.01],
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
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        dataset="EuroSAT",
        data_root=data_root,
        dataset_args=dict(split="train", bands=rgb_bands),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        dataset="EuroSAT",
        data_root=data_root,
        dataset_args=dict(split="val", bands=rgb_bands),
        metainfo=metainfo,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        dataset="EuroSAT",
        data_root=data_root,
        dataset_args=dict(split="test", bands=rgb_bands),
        metainfo=metainfo,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
val_evaluator = dict(type="hook.Accuracy", topk=(1,))
test_evaluator = val_evaluator
