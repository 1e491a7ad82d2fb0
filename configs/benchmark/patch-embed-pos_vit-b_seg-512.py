# Patch embedding with positions, with the paper's pyramid and head for segmentation.
_base_ = ["../_base_/models/patch_embed_vit-b_seg.py"]
default_scope = "mmseg"
model = dict(
    data_preprocessor=dict(
        type="hook.SegDataPreProcessor", mean=[0.0] * 3, std=[1.0] * 3, size=(512, 512)
    ),
    backbone=dict(tokenizer=dict(with_pos_embed=True)),
)
