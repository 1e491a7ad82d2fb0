# VFM-VAE: Gaussian latents of 32 channels at stride 16 from SigLIP2, with a progressive decoder
# (11.6 + 49.9 M parameters; arXiv:2510.18457). timm downloads the weights of SigLIP2, and gives the
# outputs of blocks: the first block's stands for the patch embedding, the last's has no norm. The
# paper's LPIPS needs weights that do not come with HOOK, its discriminator is StyleGAN-T's; both
# are left out.
model = dict(
    type="hook.TileAutoencoder",
    data_preprocessor=dict(type="hook.CodecDataPreProcessor", value_range=(0, 255)),
    encoder=dict(
        type="hook.FusionEncoder",
        backbone=dict(
            type="hook.FrozenBackbone",
            model="vit_large_patch16_siglip_512.v2_webli",
            weights=True,
            levels=(0, 11, 23),
            scale=2.0,
            dynamic_img_size=True,
        ),
        level_channels=(1024, 1024, 1024),
        level_strides=(8, 8, 8),
        mid_channels=(64, 64, 64),
        out_channels=64,
        stride=16,
    ),
    quantizer=dict(type="hook.GaussianQuantizer", embed_dims=32, kl_weight=1e-6),
    decoder=dict(
        type="hook.ProgressiveDecoder",
        in_channels=32,
        out_channels=3,
        stride=16,
        stage_channels=(512, 512, 512, 512, 256, 128),
        latent_channels=(512, 256, 128, 128),
    ),
    losses=[
        dict(type="hook.PixelLoss", norm="l1"),
        dict(type="hook.PixelLoss", norm="l1", stages=True, weight=0.1, end=9766),
        dict(type="hook.AlignmentLoss", in_channels=32, feature_channels=1024, weight=5.0),
    ],
)
