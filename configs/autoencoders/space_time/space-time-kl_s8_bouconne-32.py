# A series of Sentinel-2 to Gaussian latents of patches of a date and a band group (AToken), with
# dates withheld from the encoder. Not trained yet. For other series replace metainfo, the files,
# the splits, and the bands of the groups.
_base_ = ["../../_base_/schedules/codec_20e.py"]
# Sentinel-2 monthly composites (Theia L3A) of a forest near Toulouse: 7 dates x 10 bands, 227 x 246
# pixels of 10 m. Their bands of 20 m are repeated over 2 x 2 pixels.
bands = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
metainfo = dict(
    bands=bands,
    wavelengths=[492, 560, 665, 833, 704, 741, 783, 865, 1614, 2202],  # nm
    dates=[
        "2018-04-29", "2018-05-13", "2018-07-08", "2018-08-15", "2018-09-15", "2018-10-15",
        "2018-11-15",
    ],
    mean=[187.2, 375.6, 222.6, 3106.4, 660.3, 2362.8, 2977.7, 3313.3, 1530.8, 626.7],
    std=[68.2, 103.2, 122.1, 705.4, 168.6, 540.4, 707.6, 699.1, 243.5, 160.5],
)  # fmt: skip
data_preprocessor = dict(
    type="hook.CodecDataPreProcessor", mean=metainfo["mean"], std=metainfo["std"]
)
sizes = dict(embed_dims=128, depth=4, num_heads=4, patch_size=8)
model = dict(
    type="hook.SeriesAutoencoder",
    data_preprocessor=data_preprocessor,
    encoder=dict(
        type="hook.SpaceTimeEncoder",
        tokenizer=dict(
            type="hook.SpaceTimeTokenizer",
            in_channels=len(bands),
            # Bands of 10 m and of 20 m.
            groups=[dict(bands=[0, 1, 2, 3]), dict(bands=[4, 5, 6, 7, 8, 9], factor=2)],
            **sizes,
        ),
        out_channels=32,
    ),
    quantizer=dict(type="GaussianQuantizer", embed_dims=16, kl_weight=1e-4, reduction="mean"),
    decoder=dict(
        type="hook.SpaceTimeDecoder",
        in_channels=16,
        out_channels=len(bands),
        groups=[4, 6],
        fills=True,
        **sizes,
    ),
    hide=0.25,
    frozen=dict(type="hook.FrozenBackbone", levels=(1, 2), bands=(2, 1, 0), mean=0.0, std=1.0),
    losses=[
        dict(type="hook.PixelLoss", norm="l1"),
        dict(type="hook.GramLoss", reduction="l1", weight=0.1),
    ],
)
# Strips from north to south: 128 rows, 32, and 54, with 16 rows (160 m) between them. Neighbouring
# pixels are alike, and this is one place: scores say nothing about others.
source = dict(
    type="hook.GeoTIFFSeries",
    data_root="data/bouconne_s2_l3a",
    images="2018_3A_Theia_Bouconne.tif",
    metainfo=metainfo,
    chip_size=32,
    align=2,
)
crs, west, east = "EPSG:32631", 356040, 358310
test_pipeline = [dict(type="hook.PackSegSample")]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="hook.RandomGeoSampler"),
    dataset=dict(
        **source,
        split=dict(bounds=(west, 4834400, east, 4835680), crs=crs),
        length=256,
        pipeline=[
            dict(type="hook.Albumentations", transforms=[dict(type="D4", p=1.0)]),
            *test_pipeline,
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **source,
        split=dict(bounds=(west, 4833920, east, 4834240), crs=crs),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **source,
        split=dict(bounds=(west, 4833220, east, 4833760), crs=crs),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.01), clip_grad=dict(max_norm=1.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=100, eta_min=1e-6),
]
train_cfg = dict(max_epochs=100, val_interval=10)  # of 256 chips
auto_scale_lr = dict(base_batch_size=8)
val_evaluator = [dict(type="hook.ReconstructionMetric", data_range=10000)]  # a reflectance of 1
test_evaluator = val_evaluator
