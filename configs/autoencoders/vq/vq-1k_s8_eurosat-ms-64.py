# As vq-1k, for the 13 bands of TorchGeo's EuroSAT (Sentinel-2, level 1C). For other data of many
# bands replace bands, mean, std and source.
_base_ = ["vq-1k_s8_eurosat-2k-64.py"]
bands = (
    "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A",
)  # fmt: skip
metainfo = dict(
    bands=bands,
    mean=[
        1354.41, 1118.24, 1042.93, 947.63, 1199.47, 1999.79, 2369.22, 2296.83, 732.08, 12.11,
        1819.01, 1118.92, 2594.14,
    ],
    std=[
        245.72, 333.01, 395.09, 593.75, 566.42, 861.18, 1086.63, 1117.98, 404.92, 4.78,
        1002.59, 761.30, 1231.59,
    ],
)  # fmt: skip
data_preprocessor = dict(
    _delete_=True,
    type="hook.CodecDataPreProcessor",
    mean=metainfo["mean"],
    std=metainfo["std"],
)
model = dict(
    data_preprocessor=data_preprocessor,
    encoder=dict(in_channels=len(bands)),
    decoder=dict(out_channels=len(bands)),
)
source = dict(dataset="EuroSAT", data_root="data/eurosat", dtype="uint16", metainfo=metainfo)
train_dataloader = dict(
    dataset=dict(**source, split_list=None, dataset_args=dict(split="train", bands=bands))
)
val_dataloader = dict(
    dataset=dict(**source, split_list=None, dataset_args=dict(split="val", bands=bands))
)
test_dataloader = dict(
    dataset=dict(**source, split_list=None, dataset_args=dict(split="test", bands=bands))
)
val_evaluator = [
    dict(type="hook.ReconstructionMetric", data_range=10000),  # a reflectance of 1
    dict(type="hook.CodebookMetric"),
]
test_evaluator = val_evaluator
