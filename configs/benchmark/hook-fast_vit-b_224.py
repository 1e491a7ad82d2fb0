# HOOK with the preset fast and ViT-B at 224 px, 6 tokens; one linear layer on the mean token.
_base_ = ["hook_vit-b_224.py"]
model = dict(backbone=dict(tokenizer=dict(preset="fast")))
