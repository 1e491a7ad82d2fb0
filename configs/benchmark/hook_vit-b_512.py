# HOOK with ViT-B at 512 px, 8 tokens; one linear layer on the mean token.
_base_ = ["../_base_/models/hook_vit-b_cls.py"]
default_scope = "hook"
model = dict(
    backbone=dict(tokenizer=dict(img_size=512, num_tokens=8)),
    head=dict(num_classes=10),
    data_preprocessor=dict(type="hook.ClsDataPreProcessor"),
)
