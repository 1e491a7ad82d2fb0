# hook_vit-b_nasc-tg2-224 with the preset fast.
_base_ = ["hook_vit-b_nasc-tg2-224.py"]
model = dict(backbone=dict(tokenizer=dict(preset="fast")))
