# fast with eight tokens on the Banepa buildings; seeds are assigned to tokens, and dense features
# have the resolution of the seeds.
_base_ = ["hook_vit-192x6_banepa-256.py"]
model = dict(
    backbone=dict(tokenizer=dict(preset="fast", assign="token")),
    neck=dict(_delete_=True, type="hook.SeedPyramid", in_channels=192),
    # Maps that do not match the seeds would be stretched: pad windows to whole seeds. Padding and
    # pixels without data belong to no token.
    data_preprocessor=dict(test_cfg=dict(size_divisor=4), mark_invalid=True),
)
