# The paper's patch-embedding baseline: ViT-B/16 without positions, with a class token.
model = dict(
    type="hook.TokenClassifier",
    backbone=dict(
        type="hook.TokenViT",
        tokenizer=dict(
            type="hook.PatchEmbedTokenizer",
            img_size=224,
            patch_size=16,
            in_channels=3,
            with_pos_embed=False,
            with_cls_token=True,
        ),
        embed_dims=768,
        depth=12,
        num_heads=12,
    ),
    head=dict(type="hook.LinearClsHead", num_classes=45, in_channels=768, pooling="cls_token"),
)
