# fast with eight tokens on the Banepa buildings, with a skip connection from the seeds to the
# pyramid.
_base_ = ["hook-fast_vit-192x6_banepa-256.py"]
model = dict(backbone=dict(seed_skip=True), neck=dict(seed_channels=128))
