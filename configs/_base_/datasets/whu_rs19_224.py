# WHU-RS19: half of each of the 19 classes to train, half to test.
#   python tools/dataset_tools/prepare_whu_rs19.py <download> data/whu_rs19
dataset_type = "hook.TorchGeoClassification"
data_root = "data/whu_rs19"
metainfo = dict(
    classes=(
        "Airport",
        "Beach",
        "Bridge",
        "Commercial",
        "Desert",
        "Farmland",
        "footballField",
        "Forest",
        "Industrial",
        "Meadow",
        "Mountain",
        "Park",
        "Parking",
        "Pond",
        "Port",
        "railwayStation",
        "Residential",
        "River",
        "Viaduct",
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
        dataset="WHURS19",
        data_root=data_root,
        split_list=["splits/train0.5.csv", "splits/whu_rs19_train_hook_seed0.txt"],
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
        dataset="WHURS19",
        data_root=data_root,
        split_list=["splits/test0.5.csv", "splits/whu_rs19_test_hook_seed0.txt"],
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
