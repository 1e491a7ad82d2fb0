# RQ-VAE's tokenizer of 4 codes per position from one table of 16,384 at stride 32 (41.1 + 59.0 M
# parameters; arXiv:2203.01941). Its LPIPS needs weights that do not come with HOOK: a perceptual
# loss on EfficientNet-Lite0 stands in its place.
_base_ = ["open_magvit2_f16.py"]
network = dict(
    embed_dims=128,
    channel_mult=(1, 1, 2, 2, 4, 4),
    num_res_blocks=2,
    z_channels=256,
    attn_levels=(-1,),
)
model = dict(
    encoder=dict(
        _delete_=True, type="hook.VQGANEncoder", in_channels=3, out_channels=256, **network
    ),
    quantizer=dict(
        _delete_=True,
        type="hook.ResidualQuantizer",
        codebook_size=16384,
        embed_dims=256,
        depth=4,
        shared=True,
    ),
    decoder=dict(
        _delete_=True, type="hook.VQGANDecoder", in_channels=256, out_channels=3, **network
    ),
    losses=[
        dict(type="hook.PixelLoss", norm="l2"),
        dict(type="hook.PerceptualLoss", weight=0.1),
        dict(
            type="hook.AdversarialLoss",
            weight=0.75,
            adaptive=True,
            generator="mean",
            discriminator_weight=0.75,
        ),
    ],
    discriminator=dict(num_layers=2),
)
