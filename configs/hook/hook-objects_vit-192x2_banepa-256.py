# The preset objects on the Banepa buildings.
_base_ = [
    "../_base_/models/hook-objects_vit-192x2_seg.py",
    "../_base_/datasets/banepa_buildings_256.py",
    "../_base_/schedules/banepa_12e.py",
    "../_base_/default_runtime.py",
]
default_scope = "mmseg"
model = dict(
    decode_head=dict(num_classes=2),
    auxiliary_head=dict(num_classes=2),
    # Padding to whole seeds; padding and pixels without data belong to no token.
    data_preprocessor=dict(
        **_base_.data_preprocessor, test_cfg=dict(size_divisor=4), mark_invalid=True
    ),
)
