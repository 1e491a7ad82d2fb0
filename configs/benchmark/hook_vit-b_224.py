# HOOK with ViT-B at 224 px, 6 tokens; one linear layer on the mean token.
_base_ = ["../_base_/models/hook_vit-b_cls.py"]
default_scope = "hook"
model = dict(
    backbone=dict(tokenizer=dict(img_size=224, num_tokens=6)),
    head=dict(num_classes=10),
    data_preprocessor=dict(type="hook.ClsDataPreProcessor"),
)
