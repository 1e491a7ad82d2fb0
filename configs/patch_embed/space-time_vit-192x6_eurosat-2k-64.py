# As patch-embed_vit-192x6, with the tokenizer of AToken: two blocks among the patches, whose
# positions are in metres, so that one model takes images of any size and resolution.
_base_ = ["patch-embed_vit-192x6_eurosat-2k-64.py"]
model = dict(
    backbone=dict(
        tokenizer=dict(
            _delete_=True,
            type="hook.SpaceTimeTokenizer",
            in_channels=3,
            patch_size=8,
            depth=2,
            num_heads=6,
            resolution=10.0,
        )
    )
)
