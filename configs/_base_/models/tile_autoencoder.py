# A small autoencoder for tiles and scenes: codes at stride 8. Its norms are those of a position,
# and it has no attention, so that a window of a scene gets the codes of the whole scene.
# Another quantizer is chosen by its name, as in
#   quantizer=dict(
#       _delete_=True, type="hook.FiniteScalarQuantizer", levels=(8, 5, 5, 5), embed_dims=32
#   )
# A LookupFreeQuantizer has as many channels as bits, a GaussianQuantizer takes twice the channels
# that it gives, and quantizer=None leaves latents as they are.
bands = 3
latent_dims = 32
network = dict(
    embed_dims=64,
    channel_mult=(1, 2),
    num_res_blocks=1,
    mid_blocks=0,  # they see beyond tiles of 64 pixels
    attn_levels=(),
    mid_attention=False,
    patch_size=4,
    norm="channel",
)
model = dict(
    type="hook.TileAutoencoder",
    # 8-bit values to [-1, 1]; for other data mean and std per band.
    data_preprocessor=dict(type="hook.CodecDataPreProcessor", value_range=(0, 255)),
    encoder=dict(type="hook.VQGANEncoder", in_channels=bands, out_channels=latent_dims, **network),
    quantizer=dict(type="hook.VectorQuantizer", codebook_size=1024, embed_dims=latent_dims),
    decoder=dict(type="hook.VQGANDecoder", in_channels=latent_dims, out_channels=bands, **network),
    losses=[dict(type="hook.PixelLoss", norm="l2")],
)
