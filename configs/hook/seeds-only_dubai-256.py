# Only stem, skip and pyramid of fast, without tokens, on the Dubai land cover: the model of
# seeds-only_banepa-256.
_base_ = [
    "../_base_/models/hook_vit-192x6_seg.py",
    "../_base_/datasets/dubai_landcover_256.py",
    "../_base_/schedules/dubai_8e.py",
    "../_base_/default_runtime.py",
]
default_scope = "mmseg"
model = dict(
    backbone=dict(
        _delete_=True,
        type="hook.SeedBackbone",
        tokenizer=dict(type="hook.HookTokenizer", preset="fast", img_size=256, seed_dims=128),
    ),
    neck=dict(_delete_=True, type="hook.SeedPyramid", in_channels=None, seed_channels=128),
    decode_head=dict(num_classes=5),
    data_preprocessor=dict(**_base_.data_preprocessor, test_cfg=dict(size_divisor=4)),
)
