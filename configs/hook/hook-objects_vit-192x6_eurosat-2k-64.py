# The preset objects: a token per region of the image; neighbouring seeds that regions by colour
# hold together teach the features of merging.
_base_ = ["hook_vit-192x6_eurosat-2k-64.py"]
model = dict(
    backbone=dict(tokenizer=dict(preset="objects", num_tokens=12)),
    region_loss=dict(type="hook.RegionLoss", loss_weight=0.1, from_labels=False),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
