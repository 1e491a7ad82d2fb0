# Common settings of all runs. Segmentation configs overwrite default_scope with 'mmseg'.
default_scope = "hook"

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=True),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # Keep two checkpoints: one remains if a run is killed while it writes the other.
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2, save_best="auto"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.TokenVisualizationHook", interval=10, max_images=4),
    dict(type="hook.ChannelsLastHook"),
]

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),  # tools/train.py uses gloo without a GPU
)
# For TensorBoard add dict(type="TensorboardVisBackend") to vis_backends.
visualizer = dict(
    type="mmengine.Visualizer", name="visualizer", vis_backends=[dict(type="LocalVisBackend")]
)
log_processor = dict(by_epoch=True, window_size=50)
log_level = "INFO"
randomness = dict(seed=0)
load_from = None
resume = False
