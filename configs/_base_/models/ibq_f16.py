# IBQ's tokenizer of 16,384 codes at stride 16 (46.8 + 59.9 M parameters; arXiv:2412.02692). Its
# LPIPS needs weights that do not come with HOOK: a perceptual loss on EfficientNet-Lite0 stands in
# its place. The official codebook starts with init_std=1.
_base_ = ["open_magvit2_f16.py"]
network = dict(
    embed_dims=128,
    channel_mult=(1, 1, 2, 2, 4),
    num_res_blocks=4,
    z_channels=256,
    attn_levels=(-1,),
)
model = dict(
    encoder=dict(
        _delete_=True, type="hook.VQGANEncoder", in_channels=3, out_channels=256, **network
    ),
    quantizer=dict(
        _delete_=True, type="hook.IndexBackpropQuantizer", codebook_size=16384, embed_dims=256
    ),
    decoder=dict(
        _delete_=True, type="hook.VQGANDecoder", in_channels=256, out_channels=3, **network
    ),
    discriminator_first=True,
)
