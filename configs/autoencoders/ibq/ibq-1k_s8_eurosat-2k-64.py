# As vq-1k, with index backpropagation (IBQ).
_base_ = ["../vq/vq-1k_s8_eurosat-2k-64.py"]
model = dict(
    quantizer=dict(
        _delete_=True, type="hook.IndexBackpropQuantizer", codebook_size=1024, embed_dims=32
    ),
)
