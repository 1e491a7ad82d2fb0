# The paper's segmentation recipe with 10 epochs of warm-up (GID5; patch embed on DGLCC): batch 8.
# The schedule is that of scene classification.
_base_ = ["cls_adamw_100e.py"]
optim_wrapper = dict(optimizer=dict(lr=5e-6))
auto_scale_lr = dict(base_batch_size=8)
