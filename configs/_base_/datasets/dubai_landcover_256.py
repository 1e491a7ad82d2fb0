# Dubai land cover: windows of 256 px of satellite images without a georeference, five classes,
# with the augmentation and metrics of the Banepa buildings. Splits are by scene: 990 training
# windows, of which each epoch draws 250 anew, 108 to validate and 216 to test. Two annotators agree
# on 81 to 89 % of the pixels: differences of one or two points of mIoU may be noise of the labels.
#   python tools/dataset_tools/prepare_dubai_landcover.py <clone or download> data/dubai_landcover
#
# Humans in the Loop, with the Mohammed Bin Rashid Space Centre; annotated by trainees of the Roia
# Foundation. CC0 1.0.
_base_ = ["banepa_buildings_256.py"]
data_root = "data/dubai_landcover"
metainfo = dict(
    _delete_=True,
    classes=("building", "land_unpaved", "road", "vegetation", "water"),
    palette=[[60, 16, 152], [132, 41, 246], [110, 193, 228], [254, 221, 58], [226, 169, 41]],
    bands=("red", "green", "blue"),
    mean=[149.379, 151.98, 157.4625],
    std=[65.7135, 68.442, 72.267],
)
data_preprocessor = dict(mean=metainfo["mean"], std=metainfo["std"])
folder = dict(data_root=data_root, metainfo=metainfo)
windows = dict(file="windows_256.csv", attribute="split", size=256)
train_dataloader = dict(
    dataset=dict(
        **folder,
        split=dict(_delete_=True, **windows, value="train"),
        length=250,  # windows per epoch
    ),
)
val_dataloader = dict(
    dataset=dict(**folder, split=dict(_delete_=True, **windows, value="val")),
)
test_dataloader = dict(
    dataset=dict(**folder, split=dict(_delete_=True, **windows, value="test")),
)
