# The same with the preset made for speed.
_base_ = ["hook_vit-b_512.py"]
model = dict(backbone=dict(tokenizer=dict(preset="fast")))
