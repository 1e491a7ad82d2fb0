# As ar-256x6_vq-1k, over the two codes per position of rq-1k-d2: the blocks predict the second
# after the first (DnD-Transformer). The two share the autoencoder's table, but have vectors of
# their own here: one table for both, as in the paper, is shared=("embeds",).
_base_ = ["../ar/ar-256x6_vq-1k_eurosat-2k-64.py"]
model = dict(
    codec=dict(
        quantizer=dict(
            _delete_=True, type="hook.ResidualQuantizer", codebook_size=1024, embed_dims=32, depth=2
        ),
    ),
    codec_weights="work_dirs/rq-1k-d2_s8_eurosat-2k-64/epoch_20.pth",
    network=dict(type="hook.DepthTransformer", shared=()),
)
