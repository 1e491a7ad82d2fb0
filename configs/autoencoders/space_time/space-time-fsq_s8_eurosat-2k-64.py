# AToken's transformers on single images, with the bits, the loss and about the weights of
# vq-1k_s8_eurosat-2k-64: one of 8 x 5 x 5 x 5 finite scalars per patch of 8 pixels. They attend to
# the whole tile, so that codes of a scene would depend on its windows. Not trained yet.
_base_ = ["../vq/vq-1k_s8_eurosat-2k-64.py"]
bands, levels = 3, (8, 5, 5, 5)
sizes = dict(embed_dims=128, depth=4, num_heads=4, patch_size=8, resolution=10.0)
model = dict(
    encoder=dict(
        _delete_=True,
        type="hook.SpaceTimeEncoder",
        tokenizer=dict(type="hook.SpaceTimeTokenizer", in_channels=bands, **sizes),
        out_channels=len(levels),
    ),
    quantizer=dict(_delete_=True, type="hook.FiniteScalarQuantizer", levels=levels),
    decoder=dict(
        _delete_=True,
        type="hook.SpaceTimeDecoder",
        in_channels=len(levels),
        out_channels=bands,
        **sizes,
    ),
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
