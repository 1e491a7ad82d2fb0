# A transformer predicts the codes of hook-vq-tiny_rgb, the autoencoder that comes with HOOK, by
# class. No autoencoder is to be trained before.
_base_ = ["ar-256x6_vq-1k_eurosat-2k-64.py"]
model = dict(
    codec=dict(
        encoder=dict(embed_dims=32, out_channels=16),
        quantizer=dict(embed_dims=16),
        decoder=dict(embed_dims=36, in_channels=16),
    ),
    codec_weights="hook://hook-vq-tiny_rgb",
)
