# ViT-B/16 with learned positions at 512 px; one linear layer on the mean token.
_base_ = ["../_base_/models/patch_embed_vit-b_cls.py"]
default_scope = "hook"
model = dict(
    backbone=dict(tokenizer=dict(img_size=512, with_pos_embed=True, with_cls_token=False)),
    head=dict(num_classes=10, pooling="mean"),
    data_preprocessor=dict(type="hook.ClsDataPreProcessor"),
)
