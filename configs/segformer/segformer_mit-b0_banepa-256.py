# SegFormer-B0 from scratch on the Banepa buildings, with the recipe of the other methods.
_base_ = [
    "../_base_/models/segformer_mit-b0.py",
    "../_base_/datasets/banepa_buildings_256.py",
    "../_base_/schedules/banepa_12e.py",
    "../_base_/default_runtime.py",
]
default_scope = "mmseg"
model = dict(
    decode_head=dict(num_classes=2),
    data_preprocessor=_base_.data_preprocessor,
)
