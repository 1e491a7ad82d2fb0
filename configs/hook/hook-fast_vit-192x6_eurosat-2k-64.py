# The preset made for speed, all else equal.
_base_ = ["hook_vit-192x6_eurosat-2k-64.py"]
model = dict(backbone=dict(tokenizer=dict(preset="fast")))
