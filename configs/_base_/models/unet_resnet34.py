# U-Net with a ResNet-34 from scratch, the default model of segmentation_models_pytorch. The decoder
# has 16 channels at full resolution, the head is a linear classifier.
model = dict(
    type="EncoderDecoder",
    backbone=dict(
        type="hook.SMPBackbone",
        arch="Unet",
        encoder_name="resnet34",
        encoder_weights=None,
        in_channels=3,
    ),
    decode_head=dict(
        type="FCNHead",
        in_channels=16,
        channels=16,
        in_index=0,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=5,
        ignore_index=255,
        align_corners=False,
        loss_decode=dict(type="hook.CrossEntropyLoss"),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
