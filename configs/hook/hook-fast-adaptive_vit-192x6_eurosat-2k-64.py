# 16 ordered queries trained with nested dropout; for other numbers of tokens:
#   --cfg-options model.backbone.tokenizer.num_tokens=4
_base_ = ["hook-fast_vit-192x6_eurosat-2k-64.py"]
model = dict(backbone=dict(tokenizer=dict(max_tokens=16)))
