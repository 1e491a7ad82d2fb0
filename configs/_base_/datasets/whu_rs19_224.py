# WHU-RS19: half of each of the 19 classes for training, half for test.
#   python tools/dataset_tools/prepare_whu_rs19.py <download> data/whu_rs19
_base_ = ["scenes_224.py"]
data_root = "data/whu_rs19"
metainfo = dict(
    classes=(
        "Airport", "Beach", "Bridge", "Commercial", "Desert", "Farmland", "footballField", "Forest",
        "Industrial", "Meadow", "Mountain", "Park", "Parking", "Pond", "Port", "railwayStation",
        "Residential", "River", "Viaduct",
    ),
    bands=("red", "green", "blue"),
    mean=[123.675, 116.28, 103.53],  # of ImageNet, for values from 0 to 255
    std=[58.395, 57.12, 57.375],
)  # fmt: skip

# The first list that exists is used: the authors', else this project's draw.
train_dataloader = dict(
    dataset=dict(
        dataset="WHURS19",
        data_root=data_root,
        split_list=["splits/train0.5.csv", "splits/whu_rs19_train_hook_seed0.txt"],
        metainfo=metainfo,
    ),
)
val_dataloader = dict(
    dataset=dict(
        dataset="WHURS19",
        data_root=data_root,
        split_list=["splits/test0.5.csv", "splits/whu_rs19_test_hook_seed0.txt"],
        metainfo=metainfo,
    ),
)
test_dataloader = val_dataloader
