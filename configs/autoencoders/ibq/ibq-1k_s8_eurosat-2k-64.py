# As vq-1k, with index backpropagation (IBQ).
_base_ = ["../vq/vq-1k_s8_eurosat-2k-64.py"]
model = dict(
    quantizer=dict(
        _delete_=True, type="hook.IndexBackpropQuantizer", codebook_size=1024, embed_dims=32
    ),
    # The official weights of the quantizer's losses are made for reconstruction losses near 0.5; a
    # squared error of 0.01 would count for little. Of 1 to 1,000, 300 has the highest PSNR on
    # 400 tiles of the training with more than nine tenths of the codes in use.
    losses=[dict(type="hook.PixelLoss", norm="l2", weight=300.0)],
)
