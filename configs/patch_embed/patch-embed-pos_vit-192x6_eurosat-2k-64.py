# patch-embed_vit-192x6_eurosat-2k-64 with learned positions, as in the usual ViT.
_base_ = ["patch-embed_vit-192x6_eurosat-2k-64.py"]
model = dict(backbone=dict(tokenizer=dict(with_pos_embed=True)))
