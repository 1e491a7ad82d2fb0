# fast with the paper's pyramid and head, from dense maps of 32 x 32 cells as in the paper.
_base_ = ["../_base_/models/hook_vit-b_seg.py"]
default_scope = "mmseg"
model = dict(
    data_preprocessor=dict(
        type="hook.SegDataPreProcessor", mean=[0.0] * 3, std=[1.0] * 3, size=(512, 512)
    ),
    backbone=dict(tokenizer=dict(preset="fast")),
)
