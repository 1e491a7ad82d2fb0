# As vq-1k, with two codes per position, of which the second refines the first.
_base_ = ["../vq/vq-1k_s8_eurosat-2k-64.py"]
model = dict(
    quantizer=dict(
        _delete_=True, type="hook.ResidualQuantizer", codebook_size=1024, embed_dims=32, depth=2
    ),
)
