# 32 slots of an aerial image, each a sum of four of 1,024 codes, from which alone it is decoded
# (Slot-MLLM's attention over HOOK's seeds): objects without labels. Not trained yet. The features
# of the decoder's cells are drawn towards those of EfficientNet-Lite0, which saw natural images
# (pip install hook-rs[perceptual]).
_base_ = ["../../_base_/datasets/banepa_buildings_256.py", "../../_base_/default_runtime.py"]
data_preprocessor = dict(_delete_=True, type="hook.CodecDataPreProcessor", value_range=(0, 255))
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
train_dataloader = dict(
    dataset=dict(
        length=1024,
        pipeline=[
            dict(type="hook.Albumentations", transforms=[dict(type="D4", p=1.0)]),
            dict(type="hook.PackSegSample"),
        ],
    )
)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=4e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=20, eta_min=1e-6),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=20, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=8)
val_evaluator = [
    dict(type="hook.ReconstructionMetric", data_range=255),
    dict(type="hook.CodebookMetric"),
]
test_evaluator = val_evaluator
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="EMAHook", ema_type="hook.WeightEMA", momentum=0.01),
]
