# Open-MAGVIT2's tokenizer of 18 bits at stride 16 (49.8 + 65.4 M parameters; arXiv:2409.04410).
# Its LPIPS needs weights that do not come with HOOK: a perceptual loss on EfficientNet-Lite0 stands
# in its place.
model = dict(
    type="hook.TileAutoencoder",
    data_preprocessor=dict(type="hook.CodecDataPreProcessor", value_range=(0, 255)),
    encoder=dict(
        type="hook.MAGVIT2Encoder",
        in_channels=3,
        embed_dims=128,
        channel_mult=(1, 1, 2, 2, 4),
        num_res_blocks=4,
        out_channels=18,
    ),
    quantizer=dict(type="hook.LookupFreeQuantizer", bits=18, factors=(6, 12)),
    decoder=dict(
        type="hook.MAGVIT2Decoder",
        in_channels=18,
        out_channels=3,
        embed_dims=128,
        channel_mult=(1, 1, 2, 2, 4),
        num_res_blocks=4,
    ),
    frozen=dict(type="hook.FrozenBackbone"),
    losses=[
        dict(type="hook.PixelLoss", norm="l1"),
        dict(type="hook.PerceptualLoss", weight=0.1),
        dict(type="hook.AdversarialLoss", weight=0.1, lecam_weight=0.05),
    ],
    discriminator=dict(type="hook.PatchDiscriminator", in_channels=3),
)
