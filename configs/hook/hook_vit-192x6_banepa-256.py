# HOOK with eight tokens and 128-channel seeds and a ViT of width 192 and depth 6, on folders of
# GeoTIFFs with building masks.
_base_ = [
    "../_base_/models/hook_vit-192x6_seg.py",
    "../_base_/datasets/banepa_buildings_256.py",
    "../_base_/schedules/banepa_12e.py",
    "../_base_/default_runtime.py",
]
default_scope = "mmseg"
model = dict(
    decode_head=dict(num_classes=2),
    data_preprocessor=_base_.data_preprocessor,
)
