# hook_vit-192x6_eurosat-2k-64 with the preset fast.
_base_ = ["hook_vit-192x6_eurosat-2k-64.py"]
model = dict(backbone=dict(tokenizer=dict(preset="fast")))
