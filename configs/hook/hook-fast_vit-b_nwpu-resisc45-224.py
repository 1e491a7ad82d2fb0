# hook_vit-b_nwpu-resisc45-224 with the preset fast.
_base_ = ["hook_vit-b_nwpu-resisc45-224.py"]
model = dict(backbone=dict(tokenizer=dict(preset="fast")))
