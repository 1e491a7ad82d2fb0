# As rqvae_f32, at stride 16 with two codes per position, the autoencoder of DnD-Transformer.
_base_ = ["rqvae_f32.py"]
model = dict(
    encoder=dict(channel_mult=(1, 1, 2, 2, 4)),
    quantizer=dict(depth=2),
    decoder=dict(channel_mult=(1, 1, 2, 2, 4)),
)
