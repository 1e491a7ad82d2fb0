# The same with learned positions, the ViT that people use.
_base_ = ["patch-embed_vit-192x6_banepa-256.py"]
model = dict(backbone=dict(tokenizer=dict(with_pos_embed=True)))
