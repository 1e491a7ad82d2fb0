# Common settings of the paper's segmentation: tiles of 512 px, blur and colour jitter.
dataset_type = "hook.TorchGeoSegmentation"
mean = [123.675, 116.28, 103.53]  # of ImageNet, for values from 0 to 255
std = [58.395, 57.12, 57.375]
data_preprocessor = dict(type="hook.SegDataPreProcessor", mean=mean, std=std)

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
        dtype="uint8",
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
        dtype="uint8",
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
# There is no validation split: the paper reports the last epoch on the test tiles.
test_dataloader = val_dataloader
val_evaluator = dict(type="hook.IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
