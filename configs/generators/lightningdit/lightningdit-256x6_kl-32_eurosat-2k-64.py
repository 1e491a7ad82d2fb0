# As ar-256x6_vq-1k, but a flow from noise to the latents of kl-32 (LightningDiT). The latents are
# normalised per channel, and guidance would act on all of them.
_base_ = ["../ar/ar-256x6_vq-1k_eurosat-2k-64.py"]
model = dict(
    codec=dict(
        encoder=dict(out_channels=64),
        quantizer=dict(_delete_=True, type="hook.GaussianQuantizer", embed_dims=32),
    ),
    codec_weights="work_dirs/kl-32_s8_eurosat-2k-64/epoch_20.pth",
    network=dict(_delete_=True, type="hook.LightningDiT", embed_dims=256, depth=6, num_heads=8),
)
# A flow gives no probability of its latents, so there is no validation.
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
optim_wrapper = dict(optimizer=dict(weight_decay=0.0))
default_hooks = dict(checkpoint=dict(save_best=None))
