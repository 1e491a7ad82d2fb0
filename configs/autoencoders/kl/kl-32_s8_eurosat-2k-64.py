# As vq-1k, with Gaussian latents of 32 channels.
_base_ = ["../vq/vq-1k_s8_eurosat-2k-64.py"]
model = dict(
    encoder=dict(out_channels=64),
    quantizer=dict(_delete_=True, type="hook.GaussianQuantizer", embed_dims=32),
)
val_evaluator = [dict(type="hook.ReconstructionMetric", data_range=255)]
test_evaluator = val_evaluator
