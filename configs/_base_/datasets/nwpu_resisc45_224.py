# NWPU-RESISC45: 6,300 images to train, 25,200 to test.
#   python tools/dataset_tools/prepare_nwpu_resisc45.py <download> data/nwpu_resisc45
dataset_type = "hook.TorchGeoClassification"
data_root = "data/nwpu_resisc45"
metainfo = dict(
    classes=(
        "airplane",
        "airport",
        "baseball_diamond",
        "basketball_court",
        "beach",
        "bridge",
        "chaparral",
        "church",
        "circular_farmland",
        "cloud",
        "commercial_area",
        "dense_residential",
        "desert",
        "forest",
        "freeway",
        "golf_course",
        "ground_track_field",
        "harbor",
        "industrial_area",
        "intersection",
        "island",
        "lake",
        "meadow",
        "medium_residential",
        "mobile_home_park",
        "mountain",
        "overpass",
        "palace",
        "parking_lot",
        "railway",
        "railway_station",
        "rectangular_farmland",
        "river",
        "roundabout",
        "runway",
        "sea_ice",
        "ship",
        "snowberg",
        "sparse_residential",
        "stadium",
        "storage_tank",
        "tennis_court",
        "terrace",
        "thermal_power_station",
        "wetland",
    ),
    bands=("red", "green", "blue"),
    mean=[123.675, 116.28, 103.53],  # ImageNet's, in units of 0 to 255
    std=[58.395, 57.12, 57.375],
)
data_preprocessor = dict(
    type="hook.ClsDataPreProcessor", mean=metainfo["mean"], std=metainfo["std"]
)

train_pipeline = [
    dict(
        type="hook.Albumentations",
        transforms=[
            # Bicubic, and by area where the image shrinks, so that nothing aliases.
            dict(
                type="RandomResizedCrop",
                size=(224, 224),
                interpolation=2,
                area_for_downscale="image",
            ),
            dict(type="HorizontalFlip", p=0.5),
        ],
    ),
    dict(type="hook.PackClsSample"),
]
test_pipeline = [
    dict(
        type="hook.Albumentations",
        transforms=[
            dict(
                type="Resize",
                height=224,
                width=224,
                interpolation=2,
                area_for_downscale="image",
            )
        ],
    ),
    dict(type="hook.PackClsSample"),
]

# Of two lists the first that exists is taken: the authors', else this project's draw.
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        dataset="NWPURESISC45",
        data_root=data_root,
        split_list=["splits/train.csv", "splits/nwpu_resisc45_train_hook_seed0.txt"],
        dtype="uint8",
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
        dataset="NWPURESISC45",
        data_root=data_root,
        split_list=["splits/test.csv", "splits/nwpu_resisc45_test_hook_seed0.txt"],
        dtype="uint8",
        metainfo=metainfo,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
# The data set has no validation split: the paper reports the last epoch on the test images.
test_dataloader = val_dataloader
val_evaluator = dict(type="hook.Accuracy", topk=(1,))
test_evaluator = val_evaluator
