# Common settings of the paper's scene classification: 224 px, random resized crop and flip.
dataset_type = "hook.TorchGeoClassification"
mean = [123.675, 116.28, 103.53]  # of ImageNet, for values from 0 to 255
std = [58.395, 57.12, 57.375]
data_preprocessor = dict(type="hook.ClsDataPreProcessor", mean=mean, std=std)

train_pipeline = [
    dict(
        type="hook.Albumentations",
        transforms=[
            # Bicubic, with area interpolation for downsampling to avoid aliasing.
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

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        dtype="uint8",
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
        dtype="uint8",
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
# There is no validation split: the paper reports the last epoch on the test images.
test_dataloader = val_dataloader
val_evaluator = dict(type="hook.Accuracy", topk=(1,))
test_evaluator = val_evaluator
