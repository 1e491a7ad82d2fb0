# demo_hook with patch embedding (8 pixels, learned positions) instead of HOOK:
# python tools/demo.py --config configs/patch_embed/demo_patch_embed.py
_base_ = ["../hook/demo_hook.py"]

model = dict(
    backbone=dict(
        tokenizer=dict(
            _delete_=True,
            type="hook.PatchEmbedTokenizer",
            img_size=96,
            patch_size=8,
            in_channels=4,
            with_pos_embed=True,
            with_cls_token=False,
        ),
    ),
    region_loss=None,  # patches have no edges to learn
)
