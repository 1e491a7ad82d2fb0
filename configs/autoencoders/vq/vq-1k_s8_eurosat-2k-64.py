# 1,024 codes at stride 8 (0.16 bits per pixel) on the small EuroSAT lot, for a CPU: squared error,
# moving averages of codes and weights.
_base_ = [
    "../../_base_/models/tile_autoencoder.py",
    "../../_base_/datasets/eurosat_2k.py",
    "../../_base_/schedules/codec_20e.py",
]
data_preprocessor = dict(_delete_=True, type="hook.CodecDataPreProcessor", value_range=(0, 255))
val_evaluator = [
    dict(type="hook.ReconstructionMetric", data_range=255),
    dict(type="hook.CodebookMetric"),
]
test_evaluator = val_evaluator
