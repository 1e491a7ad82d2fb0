# As slots-gru-32_s4_banepa-256, on EuroSAT: 16 slots of four codes are the 640 bits of a tile that
# vq-1k_s8_eurosat-2k-64 has. EfficientNet-Lite0 sees the tiles enlarged twice, as in va-vae-32. Not
# trained yet.
_base_ = ["../vq/vq-1k_s8_eurosat-2k-64.py"]
dims, latent_dims, bands, slots = 96, 32, 3, 16
model = dict(
    _delete_=True,
    type="hook.SlotAutoencoder",
    data_preprocessor=dict(type="hook.CodecDataPreProcessor", value_range=(0, 255)),
    encoder=dict(
        type="hook.SlotEncoder",
        tokenizer=dict(
            type="hook.HookTokenizer",
            preset="fast",
            size="small",
            img_size=64,
            in_channels=bands,
            embed_dims=dims,
            num_tokens=slots,
            assign="gru",
            num_iterations=3,
        ),
        out_channels=latent_dims,
    ),
    quantizer=dict(
        type="hook.ResidualQuantizer", codebook_size=1024, embed_dims=latent_dims, depth=4
    ),
    decoder=dict(
        type="hook.SlotDecoder",
        in_channels=latent_dims,
        out_channels=bands,
        embed_dims=dims,
        mixing="cross",
        num_slots=slots,
        feature_pool=2,  # to the grid of the frozen features
    ),
    frozen=dict(type="hook.FrozenBackbone", levels=(3,), scale=2.0),
    losses=[
        dict(type="hook.PixelLoss", norm="l2"),
        dict(type="hook.AlignmentLoss", in_channels=dims, feature_channels=112, weight=0.1),
    ],
)
# Features are computed once, of images that are neither shifted nor mirrored.
train_dataloader = dict(dataset=dict(pipeline=[dict(type="hook.PackClsSample")]))
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=4e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
custom_hooks = [*_base_.custom_hooks, dict(type="hook.FrozenFeatureHook")]
