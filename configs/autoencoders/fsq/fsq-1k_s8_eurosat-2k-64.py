# As vq-1k, with 8 x 5 x 5 x 5 = 1,000 codes of finite scalar quantization.
_base_ = ["../vq/vq-1k_s8_eurosat-2k-64.py"]
model = dict(
    quantizer=dict(
        _delete_=True, type="hook.FiniteScalarQuantizer", levels=(8, 5, 5, 5), embed_dims=32
    ),
)
