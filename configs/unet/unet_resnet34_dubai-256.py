# U-Net from scratch on the Dubai land cover, with the recipe of the other methods.
_base_ = [
    "../_base_/models/unet_resnet34.py",
    "../_base_/datasets/dubai_landcover_256.py",
    "../_base_/schedules/dubai_8e.py",
    "../_base_/default_runtime.py",
]
default_scope = "mmseg"
model = dict(
    decode_head=dict(num_classes=5),
    data_preprocessor=_base_.data_preprocessor,
)
