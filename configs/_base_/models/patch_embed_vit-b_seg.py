# The paper's patch-embedding baseline for segmentation, with a pyramid on the patch grid.
model = dict(
    type="hook.TokenSegmentor",
    backbone=dict(
        type="hook.TokenViT",
        tokenizer=dict(
            type="hook.PatchEmbedTokenizer",
            img_size=512,
            patch_size=16,
            in_channels=3,
            with_pos_embed=False,
            with_cls_token=False,
        ),
        embed_dims=768,
        depth=12,
        num_heads=12,
        out_indices=(2, 5, 9, 11),
    ),
    neck=dict(type="hook.TokenPyramid", in_channels=768, out_channels=(128, 256, 512, 512)),
    decode_head=dict(
        type="hook.SegFormerStyleHead",
        in_channels=[128, 256, 512, 512],
        channels=256,
        dropout_ratio=0.1,
        num_classes=5,
        ignore_index=255,
        align_corners=False,
        loss_decode=dict(type="hook.CrossEntropyLoss"),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
