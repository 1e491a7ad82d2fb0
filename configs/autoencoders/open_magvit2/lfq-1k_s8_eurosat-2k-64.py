# As vq-1k, with ten signs for a code (lookup-free quantization).
_base_ = ["../vq/vq-1k_s8_eurosat-2k-64.py"]
model = dict(
    encoder=dict(out_channels=10),
    quantizer=dict(_delete_=True, type="hook.LookupFreeQuantizer", bits=10),
    decoder=dict(in_channels=10),
    # As for IBQ: the official weights are made for larger losses of the reconstruction. With 300 it
    # has the same PSNR, and fewer codes in use.
    losses=[dict(type="hook.PixelLoss", norm="l2", weight=100.0)],
)
