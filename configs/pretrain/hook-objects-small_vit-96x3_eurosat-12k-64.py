# The model that comes with HOOK, under half a million weights: size small, and images of several
# scales. It learned from more images than these, see the README.
_base_ = ["hook-objects_vit-192x6_eurosat-12k-64.py"]
model = dict(
    data_preprocessor=dict(scales=[0.5, 1.0, 1.0, 1.5]),
    backbone=dict(tokenizer=dict(size="small"), embed_dims=96, depth=3, num_heads=3, mlp_ratio=2),
)
