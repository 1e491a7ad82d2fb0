# HOOK with a token per region on the scene of data/make_demo_scene.py, split into west (training),
# a strip in the middle (validation) and east (test). tools/demo.py runs all steps, also on other
# folders.
_base_ = ["../_base_/default_runtime.py"]
default_scope = "mmseg"

img_size = 96
data_root = "data/demo"
metainfo = dict(
    classes=("field", "forest", "water", "road", "building"),
    palette=[[221, 203, 125], [44, 111, 60], [58, 118, 190], [122, 122, 128], [200, 65, 50]],
    bands=("blue", "green", "red", "nir"),
    scale=1e-4,  # digital numbers -> reflectance
    # Of valid pixels of the training area.
    mean=[0.0637, 0.0885, 0.0836, 0.3011],
    std=[0.0282, 0.0384, 0.0563, 0.1221],
    resolution=1.0,
)
# Boxes in EPSG:32632, a multiple of chips wide; the scene is 1536 m wide and 1024 m high.
train_area = (688400, 5338176, 689264, 5339200)
val_area = (689264, 5338176, 689456, 5339200)
test_area = (689456, 5338176, 689936, 5339200)

train_pipeline = [
    dict(type="hook.Albumentations", transforms=[dict(type="D4", p=1.0)]),
    dict(type="hook.PackSegSample"),
]
test_pipeline = [dict(type="hook.PackSegSample")]
folder = dict(
    type="hook.GeoTIFFFolder",
    data_root=data_root,
    images="images",
    masks="masks",
    metainfo=metainfo,
    chip_size=img_size,
)
train_dataloader = dict(
    batch_size=6,
    num_workers=0,
    sampler=dict(type="hook.RandomGeoSampler", infinite=True),
    dataset=dict(**folder, mode="random", split=dict(bounds=train_area), pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**folder, test_mode=True, split=dict(bounds=val_area), pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**folder, test_mode=True, split=dict(bounds=test_area), pipeline=test_pipeline),
)
val_evaluator = dict(type="hook.IoUMetric")
test_evaluator = val_evaluator

model = dict(
    type="hook.TokenSegmentor",
    data_preprocessor=dict(
        type="hook.SegDataPreProcessor",
        mean=metainfo["mean"],
        std=metainfo["std"],
        size=(img_size, img_size),
    ),
    backbone=dict(
        type="hook.TokenViT",
        tokenizer=dict(
            type="hook.HookTokenizer",
            preset="objects",
            img_size=img_size,
            in_channels=4,
            seed_dims=64,
            num_tokens=48,
        ),
        embed_dims=96,
        depth=4,
        num_heads=4,
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(type="hook.TokenPyramid", in_channels=96, out_channels=(32, 48, 64, 64)),
    decode_head=dict(
        type="hook.SegFormerStyleHead",
        in_channels=[32, 48, 64, 64],
        channels=48,
        dropout_ratio=0.1,
        num_classes=5,
        align_corners=False,
        loss_decode=dict(
            type="hook.CrossEntropyLoss",
            # Inverse square root of class frequencies in the training area.
            class_weight=[0.651, 1.228, 3.078, 2.521, 3.227],
        ),
    ),
    region_loss=dict(type="hook.RegionLoss"),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

max_iters = 450
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR",
        eta_min=0.0,
        by_epoch=False,
        begin=50,
        end=max_iters,
        T_max=max_iters - 50,
    ),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=75)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=20, log_metric_by_epoch=False),
    checkpoint=dict(
        type="CheckpointHook",
        by_epoch=False,
        interval=75,
        max_keep_ckpts=2,
        save_best="mIoU",
        rule="greater",
    ),
)
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.TokenVisualizationHook", interval=5, max_images=2),
]
log_processor = dict(by_epoch=False)
