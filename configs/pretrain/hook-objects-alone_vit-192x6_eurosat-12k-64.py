# HOOK learns from 12,000 EuroSAT images without labels, and without any other network.
_base_ = ["hook-objects_vit-192x6_eurosat-12k-64.py"]
model = dict(
    frozen=None,
    feature_channels=0,
    losses=[dict(type="hook.SeedReconstruction")],
)
custom_hooks = [dict(type="hook.DatasetCheckHook"), dict(type="hook.ChannelsLastHook")]
