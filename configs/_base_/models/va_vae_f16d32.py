# VA-VAE: Gaussian latents of 32 channels at stride 16, aligned with DINOv2 (28.4 + 41.4 M
# parameters; arXiv:2501.01423), as in the first of its stages of training. timm downloads the
# weights of DINOv2, which gets images in [-1, 1] without normalisation, as in the official code.
# Its LPIPS needs weights that do not come with HOOK and is left out.
network = dict(embed_dims=128, channel_mult=(1, 1, 2, 2, 4), num_res_blocks=2, attn_levels=(-1,))
model = dict(
    type="hook.TileAutoencoder",
    data_preprocessor=dict(type="hook.CodecDataPreProcessor", value_range=(0, 255)),
    encoder=dict(
        type="hook.VQGANEncoder", in_channels=3, out_channels=64, z_channels=64, **network
    ),
    quantizer=dict(type="hook.GaussianQuantizer", embed_dims=32, kl_weight=1e-6),
    decoder=dict(
        type="hook.VQGANDecoder", in_channels=32, out_channels=3, z_channels=32, **network
    ),
    frozen=dict(
        type="hook.FrozenBackbone",
        model="vit_large_patch14_dinov2.lvd142m",
        weights=True,
        levels=(23,),
        img_size=224,
        mean=0.0,
        std=1.0,
        dynamic_img_size=True,
    ),
    losses=[
        dict(type="hook.PixelLoss", norm="l1", reduction="sum"),
        dict(type="hook.AlignmentLoss", in_channels=32, feature_channels=1024, weight=0.5),
        dict(
            type="hook.AdversarialLoss",
            weight=0.5,
            adaptive=True,
            generator="mean",
            start=2500,
        ),
    ],
    discriminator=dict(type="hook.PatchDiscriminator", in_channels=3),
)
