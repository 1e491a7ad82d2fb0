# Without tokens, to show what they add: stem, skip and pyramid of hook-fast-skip alone.
_base_ = ["hook-fast-skip_vit-192x6_banepa-256.py"]
model = dict(
    backbone=dict(
        _delete_=True,
        type="hook.SeedBackbone",
        tokenizer=dict(type="hook.HookTokenizer", preset="fast", img_size=256, seed_dims=128),
    ),
    neck=dict(in_channels=None),
)
