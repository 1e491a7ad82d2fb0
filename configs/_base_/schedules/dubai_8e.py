# Dubai land cover from scratch on a CPU: batch 8, 8 epochs, one of them to warm up.
_base_ = ["banepa_12e.py"]
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=0.001,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=0.0,
        by_epoch=True,
        begin=1,
        end=8,
        T_max=7,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=8, val_interval=4)
