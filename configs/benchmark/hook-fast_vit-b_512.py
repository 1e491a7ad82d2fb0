# HOOK with the preset fast and ViT-B at 512 px, 8 tokens; one linear layer on the mean token.
_base_ = ["hook_vit-b_512.py"]
model = dict(backbone=dict(tokenizer=dict(preset="fast")))
