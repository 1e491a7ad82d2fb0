# NaSC-TG2: 1,000 training and 19,000 test images.
#   python tools/dataset_tools/prepare_nasc_tg2.py <download> data/nasc_tg2
_base_ = ["scenes_224.py"]
data_root = "data/nasc_tg2"
metainfo = dict(
    classes=(
        "beach", "circular_farmland", "cloud", "desert", "forest", "mountain",
        "rectangular_farmland", "residential", "river", "snowberg",
    ),
    bands=("red", "green", "blue"),
    mean=[123.675, 116.28, 103.53],  # of ImageNet, for values from 0 to 255
    std=[58.395, 57.12, 57.375],
    resolution=100.0,
)  # fmt: skip

# The first list that exists is used: the authors', else this project's draw.
train_dataloader = dict(
    dataset=dict(
        dataset="NaSCTG2",
        data_root=data_root,
        split_list=["splits/train.csv", "splits/nasc_tg2_train_hook_seed0.txt"],
        metainfo=metainfo,
    ),
)
val_dataloader = dict(
    dataset=dict(
        dataset="NaSCTG2",
        data_root=data_root,
        split_list=["splits/test.csv", "splits/nasc_tg2_test_hook_seed0.txt"],
        metainfo=metainfo,
    ),
)
test_dataloader = val_dataloader
