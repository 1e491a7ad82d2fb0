# GID-5: 2,000 training and 2,500 test tiles. hook.datasets.named.GID5 maps stored 0 (unlabelled)
# to 255 and shifts the other labels down by one; do not repeat it here.
#   python tools/dataset_tools/prepare_gid5.py <official download> data/gid5
_base_ = ["tiles_512.py"]
data_root = "data/gid5"
metainfo = dict(
    classes=(
        "built-up",
        "farmland",
        "forest",
        "meadow",
        "water",
    ),
    palette=[
        [255, 0, 0],
        [0, 255, 0],
        [0, 255, 255],
        [255, 255, 0],
        [0, 0, 255],
    ],
    bands=("red", "green", "blue"),
    mean=[123.675, 116.28, 103.53],  # of ImageNet, for values from 0 to 255
    std=[58.395, 57.12, 57.375],
    resolution=4.0,
)

train_dataloader = dict(
    dataset=dict(
        dataset="GID5",
        data_root=data_root,
        dataset_args=dict(split="train"),
        metainfo=metainfo,
    ),
)
val_dataloader = dict(
    dataset=dict(
        dataset="GID5",
        data_root=data_root,
        dataset_args=dict(split="test"),
        metainfo=metainfo,
    ),
)
test_dataloader = val_dataloader
