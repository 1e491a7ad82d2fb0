# As space-time-kl, with two codes of 4,096 per patch: finite scalars, six of four levels each.
_base_ = ["space-time-kl_s8_bouconne-32.py"]
model = dict(
    encoder=dict(out_channels=12),
    quantizer=dict(_delete_=True, type="FiniteScalarQuantizer", levels=[4] * 6, groups=2),
    decoder=dict(in_channels=12),
)
val_evaluator = [
    dict(type="hook.ReconstructionMetric", data_range=10000),
    dict(type="hook.CodebookMetric"),
]
test_evaluator = val_evaluator
