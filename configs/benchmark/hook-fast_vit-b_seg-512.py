# fast with dense features at the resolution of the seeds, a skip connection from the seeds, and the
# narrow pyramid and head of the small models.
_base_ = ["../_base_/models/hook_vit-b_seg.py"]
default_scope = "mmseg"
model = dict(
    data_preprocessor=dict(
        type="hook.SegDataPreProcessor", mean=[0.0] * 3, std=[1.0] * 3, size=(512, 512)
    ),
    backbone=dict(tokenizer=dict(preset="fast", assign="token"), seed_skip=True),
    neck=dict(_delete_=True, type="hook.SeedPyramid", in_channels=768, seed_channels=128),
    decode_head=dict(in_channels=[64, 96, 128, 128], channels=96),
)
