# HOOK with ViT-B for segmentation, as in the paper (141.4 M parameters).
model = dict(
    type="hook.TokenSegmentor",
    backbone=dict(
        type="hook.TokenViT",
        tokenizer=dict(
            type="hook.HookTokenizer",
            preset="reference",
            img_size=512,
            in_channels=3,
            num_tokens=8,
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
