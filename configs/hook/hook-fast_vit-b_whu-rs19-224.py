# The preset made for speed, all else equal.
_base_ = ["hook_vit-b_whu-rs19-224.py"]
model = dict(backbone=dict(tokenizer=dict(preset="fast")))
