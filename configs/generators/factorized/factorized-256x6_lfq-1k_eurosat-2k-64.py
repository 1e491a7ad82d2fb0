# As ar-256x6_vq-1k, over the signs of lfq-1k in two factors of five bits, of which the second is
# predicted from the first (next sub-token prediction, Open-MAGVIT2).
_base_ = ["../ar/ar-256x6_vq-1k_eurosat-2k-64.py"]
model = dict(
    codec=dict(
        encoder=dict(out_channels=10),
        quantizer=dict(_delete_=True, type="hook.LookupFreeQuantizer", bits=10, factors=(5, 5)),
        decoder=dict(in_channels=10),
        losses=[dict(type="hook.PixelLoss", norm="l2", weight=100.0)],
    ),
    codec_weights="work_dirs/lfq-1k_s8_eurosat-2k-64/epoch_20.pth",
    network=dict(type="hook.FactorizedTransformer"),
)
