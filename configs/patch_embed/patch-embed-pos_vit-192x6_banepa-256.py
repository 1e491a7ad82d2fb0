# patch-embed_vit-192x6_banepa-256 with learned positions, as in the usual ViT.
_base_ = ["patch-embed_vit-192x6_banepa-256.py"]
model = dict(backbone=dict(tokenizer=dict(with_pos_embed=True)))
