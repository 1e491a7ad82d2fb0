# The paper's segmentation recipe with 10 epochs of warm-up as in scene classification (GID5; patch
# embedding on DGLCC): batch 8.
_base_ = ["cls_adamw_100e.py"]
optim_wrapper = dict(optimizer=dict(lr=5e-6))
auto_scale_lr = dict(base_batch_size=8)
