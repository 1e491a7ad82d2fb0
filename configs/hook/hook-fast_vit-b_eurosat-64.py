# hook_vit-b_eurosat-64 with the preset fast.
_base_ = ["hook_vit-b_eurosat-64.py"]
model = dict(backbone=dict(tokenizer=dict(preset="fast")))
