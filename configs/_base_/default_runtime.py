# What every run shares. Segmentation configs overwrite default_scope with 'mmseg'.
default_scope = "hook"

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=True),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # Two checkpoints stay, so that a run killed while it writes still has one to resume from.
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
    dist_cfg=dict(backend="nccl"),  # without a GPU, tools/train.py takes gloo
)
# For TensorBoard put dict(type="TensorboardVisBackend") beside LocalVisBackend.
visualizer = dict(
    type="mmengine.Visualizer", name="visualizer", vis_backends=[dict(type="LocalVisBackend")]
)
log_processor = dict(by_epoch=True, window_size=50)
log_level = "INFO"
randomness = dict(seed=0)
load_from = None
resume = False
