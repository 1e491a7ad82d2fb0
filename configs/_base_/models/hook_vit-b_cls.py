# HOOK with ViT-B for scene classification, as in the paper (98.9 M parameters with 45 classes).
model = dict(
    type="hook.TokenClassifier",
    backbone=dict(
        type="hook.TokenViT",
        tokenizer=dict(
            type="hook.HookTokenizer",
            preset="reference",
            img_size=224,
            in_channels=3,
            num_tokens=6,
            with_cls_token=False,
        ),
        embed_dims=768,
        depth=12,
        num_heads=12,
    ),
    head=dict(type="hook.LinearClsHead", num_classes=45, in_channels=768, pooling="mean"),
)
