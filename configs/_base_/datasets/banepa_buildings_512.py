# Banepa buildings in full chips of 512 px, for a GPU.
_base_ = ["banepa_buildings_256.py"]
img_size = 512
data_preprocessor = dict(size=(img_size, img_size))
train_dataloader = dict(dataset=dict(chip_size=img_size, length=32))
val_dataloader = dict(dataset=dict(chip_size=img_size))
test_dataloader = dict(dataset=dict(chip_size=img_size))
