# hook-fast-skip without tokens, only stem, skip and pyramid, to measure what the tokens add.
_base_ = ["hook-fast-skip_vit-192x6_banepa-256.py"]
model = dict(
    backbone=dict(
        _delete_=True,
        type="hook.SeedBackbone",
        tokenizer=dict(type="hook.HookTokenizer", preset="fast", img_size=256, seed_dims=128),
    ),
    neck=dict(in_channels=None),
    data_preprocessor=dict(mark_invalid=False),
)
