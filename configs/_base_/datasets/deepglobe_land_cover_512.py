# DeepGlobe land cover (DGLCC): 2,000 training and 2,500 test tiles. "Unknown" (6) is ignored.
#   python tools/dataset_tools/prepare_deepglobe_land_cover.py <download> data/deepglobe_land_cover
_base_ = ["tiles_512.py"]
data_root = "data/deepglobe_land_cover"
metainfo = dict(
    classes=(
        "Urban land",
        "Agriculture land",
        "Rangeland",
        "Forest land",
        "Water",
        "Barren land",
    ),
    palette=[
        [0, 255, 255],
        [255, 255, 0],
        [255, 0, 255],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 255],
    ],
    bands=("red", "green", "blue"),
    mean=[123.675, 116.28, 103.53],  # of ImageNet, for values from 0 to 255
    std=[58.395, 57.12, 57.375],
    resolution=0.5,
)

train_dataloader = dict(
    dataset=dict(
        dataset="DeepGlobeLandCover",
        data_root=data_root,
        dataset_args=dict(split="train"),
        label_map={6: 255},
        metainfo=metainfo,
    ),
)
val_dataloader = dict(
    dataset=dict(
        dataset="DeepGlobeLandCover",
        data_root=data_root,
        dataset_args=dict(split="test"),
        label_map={6: 255},
        metainfo=metainfo,
    ),
)
test_dataloader = val_dataloader
