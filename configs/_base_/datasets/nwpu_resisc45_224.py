# NWPU-RESISC45: 6,300 training and 25,200 test images.
#   python tools/dataset_tools/prepare_nwpu_resisc45.py <download> data/nwpu_resisc45
_base_ = ["scenes_224.py"]
data_root = "data/nwpu_resisc45"
metainfo = dict(
    classes=(
        "airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge",
        "chaparral", "church", "circular_farmland", "cloud", "commercial_area", "dense_residential",
        "desert", "forest", "freeway", "golf_course", "ground_track_field", "harbor",
        "industrial_area", "intersection", "island", "lake", "meadow", "medium_residential",
        "mobile_home_park", "mountain", "overpass", "palace", "parking_lot", "railway",
        "railway_station", "rectangular_farmland", "river", "roundabout", "runway", "sea_ice",
        "ship", "snowberg", "sparse_residential", "stadium", "storage_tank", "tennis_court",
        "terrace", "thermal_power_station", "wetland",
    ),
    bands=("red", "green", "blue"),
    mean=[123.675, 116.28, 103.53],  # of ImageNet, for values from 0 to 255
    std=[58.395, 57.12, 57.375],
)  # fmt: skip

# The first list that exists is used: the authors', else this project's draw.
train_dataloader = dict(
    dataset=dict(
        dataset="NWPURESISC45",
        data_root=data_root,
        split_list=["splits/train.csv", "splits/nwpu_resisc45_train_hook_seed0.txt"],
        metainfo=metainfo,
    ),
)
val_dataloader = dict(
    dataset=dict(
        dataset="NWPURESISC45",
        data_root=data_root,
        split_list=["splits/test.csv", "splits/nwpu_resisc45_test_hook_seed0.txt"],
        metainfo=metainfo,
    ),
)
test_dataloader = val_dataloader
