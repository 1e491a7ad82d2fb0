# NaSC-TG2: 1,000 images to train, 19,000 to test.
#   python tools/dataset_tools/prepare_nasc_tg2.py <download> data/nasc_tg2
dataset_type = "hook.TorchGeoClassification"
data_root = "data/nasc_tg2"
metainfo = dict(
    classes=(
        "beach",
        "circular_farmland",
        "cloud",
        "desert",
        "forest",
        "mountain",
        "rectangular_farmland",
        "residential",
        "river",
        "snowberg",
    ),
    bands=("red", "green", "blue"),
    mean=[123.675, 116.28, 103.53],  # ImageNet's, in units of 0 to 255
    std=[58.395, 57.12, 57.375],
    resolution=100.0,
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
        dataset="NaSCTG2",
        data_root=data_root,
        split_list=["splits/train.csv", "splits/nasc_tg2_train_hook_seed0.txt"],
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
        dataset="NaSCTG2",
        data_root=data_root,
        split_list=["splits/test.csv", "splits/nasc_tg2_test_hook_seed0.txt"],
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
