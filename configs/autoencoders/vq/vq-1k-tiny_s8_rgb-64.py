# The codec that comes with HOOK: 1,024 codes at stride 8 (0.16 bits per pixel), under 0.5 million
# weights, for red, green and blue of 8 bits. Trained on tiles of 64 px of satellite and aerial
# images: EuroSAT (10 m, 12,000 tiles), Dubai land cover (15,840) and Banepa (0.13 m, 2,048),
# training splits only; validated and tested on EuroSAT.
#   python tools/dataset_tools/prepare_eurosat.py <EuroSAT_RGB folder or zip> data
#   python tools/dataset_tools/prepare_dubai_landcover.py <clone or download> data/dubai_landcover
#   python tools/dataset_tools/prepare_banepa.py <clone of fAIr-models> data/banepa_buildings
_base_ = ["vq-1k_s8_eurosat-2k-64.py"]
model = dict(
    encoder=dict(embed_dims=32, out_channels=16),
    quantizer=dict(embed_dims=16),
    decoder=dict(embed_dims=36, in_channels=16),
)
tiles = dict(
    type="hook.GeoTIFFFolder",
    images="images",
    masks="masks",
    chip_size=64,
    mode="cover",
    pipeline=[dict(type="hook.PackSegSample")],
)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    sampler=dict(_delete_=True, type="InfiniteSampler"),
    dataset=dict(
        _delete_=True,
        type="hook.ImagesInMemory",
        dataset=dict(
            type="ConcatDataset",
            ignore_keys=["classes", "ignore_index", "palette", "split"],
            datasets=[
                dict(
                    type="hook.TorchGeoClassification",
                    dataset="EuroSATRGB",
                    data_root="data/eurosat_rgb_15k",
                    split_list="splits/train.txt",
                    dtype="uint8",
                    metainfo=dict(bands=("red", "green", "blue")),
                    pipeline=[dict(type="hook.PackClsSample")],
                ),
                dict(
                    **tiles,
                    data_root="data/dubai_landcover",
                    split=dict(file="windows_256.csv", attribute="split", size=256, value="train"),
                    metainfo=dict(
                        classes=("building", "land_unpaved", "road", "vegetation", "water"),
                        bands=("red", "green", "blue"),
                    ),
                ),
                dict(
                    **tiles,
                    data_root="data/banepa_buildings",
                    split="splits/train.txt",
                    metainfo=dict(
                        classes=("background", "building"),
                        bands=("red", "green", "blue"),
                    ),
                ),
            ],
        ),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, eta_min=1e-5),
]
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=24000, val_interval=4000)
default_hooks = dict(
    logger=dict(interval=200), checkpoint=dict(by_epoch=False, interval=4000, max_keep_ckpts=1)
)
