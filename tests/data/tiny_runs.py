"""Tiny seeded data, configs and checkpoints for tests that run whole commands.

The module is imported by the configs it writes (``custom_imports``), so that the data set and the
hook below are there in the commands' own processes.
"""

import os
import signal
from pathlib import Path

import numpy as np
import rasterio
import torch
from mmengine.hooks import Hook
from rasterio.transform import from_origin
from torch.utils.data import Dataset

from hook.registry import DATASETS, HOOKS
from hook.structures import ClsDataSample

REPO = Path(__file__).resolve().parents[2]
CLASSES = ("dark", "light", "noisy")


@DATASETS.register_module(force=True)
class TinyClassification(Dataset):
    """Images of three classes that differ in brightness and noise.

    Args:
        count: Number of images.
        size: Side in pixels.
        seed: Seed of the pixels.
        kill_at: Kill the process (SIGKILL, as the kernel does when memory is short) when so many
            images have been read.
    """

    def __init__(self, count: int = 7, size: int = 16, seed: int = 0, kill_at: int = 0) -> None:
        self.count, self.size, self.seed, self.kill_at = count, size, seed, kill_at
        self.metainfo = {"classes": CLASSES, "bands": ("red", "green", "blue")}
        self._read = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        self._read += 1
        if self._read == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng((self.seed, index))
        label = index % 3
        image = rng.normal(
            (0.2, 0.8, 0.5)[label], (0.05, 0.05, 0.4)[label], (3, self.size, self.size)
        )
        sample = ClsDataSample(
            metainfo={
                "img_path": f"tiny_{index}.png",
                "img_shape": (self.size, self.size),
                "ori_shape": (self.size, self.size),
                "sample_idx": index,
            },
            gt_label=label,
        )
        return {"inputs": torch.from_numpy(image.astype(np.float32)), "data_samples": sample}


@HOOKS.register_module(force=True)
class FreezeBatchNorm(Hook):
    """Keep batch statistics out of training, so that the split over processes cannot matter."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Put every BatchNorm into evaluation mode."""
        for module in runner.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()


CLS_CONFIG = """
_base_ = ["{repo}/configs/_base_/default_runtime.py"]
custom_imports = dict(imports=["tiny_runs"])
model = dict(
    type="hook.TokenClassifier",
    data_preprocessor=dict(type="hook.ClsDataPreProcessor", mean=[0.5] * 3, std=[0.3] * 3),
    backbone=dict(
        type="hook.TokenViT",
        tokenizer=dict(type="hook.HookTokenizer", img_size=16, seed_dims=16, num_tokens=3),
        embed_dims=16,
        depth=1,
        num_heads=2,
    ),
    head=dict(type="hook.LinearClsHead", num_classes=3, in_channels=16),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="TinyClassification", count=8, seed=1),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="TinyClassification", count=7),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="hook.Accuracy", topk=(1, 2))
test_evaluator = val_evaluator
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-2))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=6),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=6, end=16, T_max=10),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=4, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(logger=dict(interval=1))
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.TokenVisualizationHook", interval=2, max_images=1),
]
visualizer = dict(
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
)
{extra}
"""

SEG_CONFIG = """
_base_ = ["{repo}/configs/_base_/default_runtime.py"]
default_scope = "mmseg"
metainfo = dict(
    classes=("water", "field", "town"),
    palette=[[0, 0, 255], [0, 200, 0], [200, 0, 0]],
    bands=("red", "nir"),
    scale=0.01,
    mean=[1.3, 1.3],
    std=[0.7, 0.7],
)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="hook.SegDataPreProcessor", mean=[1.3, 1.3], std=[0.7, 0.7], size=(32, 32)
    ),
    backbone=dict(
        type="hook.TokenViT",
        tokenizer=dict(
            type="hook.HookTokenizer", img_size=32, in_channels=2, seed_dims=16, num_tokens=4
        ),
        embed_dims=16,
        depth=1,
        num_heads=2,
        out_indices=(0,),
        dense_size=8,
    ),
    decode_head=dict(
        type="FCNHead",
        in_channels=16,
        in_index=0,
        channels=8,
        num_convs=1,
        concat_input=False,
        num_classes=3,
        norm_cfg=dict(type="BN"),
        loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="hook.GeoTIFFFolder",
        data_root="{data}",
        images="images",
        masks="masks",
        metainfo=metainfo,
        chip_size=32,
        mode="cover",
        test_mode=True,
        pipeline=[dict(type="hook.PackSegSample")],
    ),
)
test_evaluator = [
    dict(type="hook.IoUMetric", iou_metrics=["mIoU", "mFscore"]),
    dict(type="hook.BoundaryMetric", tolerance=2),
]
test_cfg = dict(type="TestLoop")
{extra}
"""

CODEC_CONFIG = """
_base_ = [
    "{repo}/configs/_base_/models/tile_autoencoder.py",
    "{repo}/configs/_base_/default_runtime.py",
]
metainfo = dict(
    classes=("water", "field", "town"),
    bands=("red", "nir"),
    mean=[130.0, 130.0],
    std=[70.0, 70.0],
)
network = dict(embed_dims=8, patch_size=2)
model = dict(
    data_preprocessor=dict(
        _delete_=True, type="hook.CodecDataPreProcessor", mean=[130.0] * 2, std=[70.0] * 2
    ),
    encoder=dict(in_channels=2, out_channels=8, **network),
    quantizer=dict(codebook_size=16, embed_dims=8),
    decoder=dict(in_channels=8, out_channels=2, **network),
    losses=[
        dict(type="hook.PixelLoss"),
        dict(
            type="hook.AdversarialLoss",
            adaptive=True,
            start=1,
            lecam_weight=0.05,
        ),
    ],
    discriminator=dict(
        type="hook.PatchDiscriminator", in_channels=2, embed_dims=8, num_layers=1
    ),
    equivariance=dict(scales=[0.5, 1.0]),
)
dataset = dict(
    type="hook.GeoTIFFFolder",
    data_root="{data}",
    images="images",
    masks="masks",
    metainfo=metainfo,
    chip_size=32,
    mode="cover",
    pipeline=[dict(type="hook.PackSegSample")],
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dataset,
)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(dataset, test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type="hook.ReconstructionMetric", data_range=400),
    dict(type="hook.CodebookMetric"),
]
test_evaluator = val_evaluator
part = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=1e-3, betas=(0.5, 0.9)))
optim_wrapper = dict(
    constructor="hook.PartsOptimWrapperConstructor", autoencoder=part, discriminator=part
)
param_scheduler = dict(
    autoencoder=[dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=3)],
    discriminator=[],
)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=4, val_interval=4)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(by_epoch=False, interval=2, max_keep_ckpts=-1, save_best=None),
)
log_processor = dict(by_epoch=False)
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.ChannelsLastHook"),
    dict(type="EMAHook", ema_type="hook.WeightEMA", momentum=0.1),
]
{extra}
"""

# Height and width of the scenes: wider than a chip, higher, and smaller.
SCENES = {"first": (70, 50), "second": (40, 90), "third": (20, 30)}
NODATA_CORNER = 8


def write_cls_config(path: Path, extra: str = "") -> Path:
    """Write a config for the three-class data set above."""
    path.write_text(CLS_CONFIG.format(repo=REPO.as_posix(), extra=extra))
    return path


def write_seg_config(path: Path, data: Path, extra: str = "") -> Path:
    """Write a config for a folder made by :func:`write_scenes`."""
    path.write_text(SEG_CONFIG.format(repo=REPO.as_posix(), data=data.as_posix(), extra=extra))
    return path


def write_codec_config(path: Path, data: Path, extra: str = "") -> Path:
    """Write a config of an autoencoder for a folder made by :func:`write_scenes`."""
    path.write_text(CODEC_CONFIG.format(repo=REPO.as_posix(), data=data.as_posix(), extra=extra))
    return path


GENERATOR_CONFIG = """
_base_ = ["{codec}"]
model = dict(
    _delete_=True,
    type="hook.TileGenerator",
    codec=_base_.model,
    codec_weights="{weights}",
    network=dict(type="hook.{network}", embed_dims=16, depth=2, num_heads=2),
    tile_size=32,
    condition="{condition}",
    num_classes=3,
)
"""


def write_slots_config(path: Path, scenes: Path, assign: str) -> Path:
    """Write the config of an autoencoder of four slots, see :func:`write_codec_config`."""
    return write_codec_config(
        path,
        scenes,
        "model.update(type='hook.SlotAutoencoder', equivariance=None, encoder=dict(_delete_=True, "
        "type='hook.SlotEncoder', out_channels=8, tokenizer=dict(type='hook.HookTokenizer', "
        "preset='fast', size='tiny', in_channels=2, embed_dims=32, num_tokens=4, "
        f"assign='{assign}')), decoder=dict(_delete_=True, type='hook.SlotDecoder', in_channels=8, "
        "out_channels=2))",
    )


def write_generator_run(
    codec: Path,
    weights: Path,
    folder: Path,
    condition: str = "map",
    network: str = "CodeTransformer",
    seed: int = 1,
) -> tuple[Path, Path]:
    """Write config and checkpoint of a generator over an autoencoder, with random weights.

    Its weights are large, so that its probabilities are far from equal.
    """
    config, path = folder / "tiny_generator.py", folder / "generator.pth"
    options = dict(codec=codec.as_posix(), weights=weights.as_posix(), network=network)
    config.write_text(GENERATOR_CONFIG.format(condition=condition, **options))
    checkpoint = torch.load(write_checkpoint(config, path), weights_only=True)
    own = torch.load(weights, weights_only=True)["state_dict"]
    torch.manual_seed(seed)
    for name, value in checkpoint["state_dict"].items():
        if name.startswith("codec."):
            value.copy_(own[name.removeprefix("codec.")])
        elif value.ndim > 1:
            value.normal_(std=0.3)
    torch.save(checkpoint, path)
    return config, path


def write_scenes(folder: Path) -> Path:
    """Write three uint16 scenes of the bands nir, red and their masks, with a nodata corner."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (name, (height, width)) in enumerate(SCENES.items()):
        truth = np.add.outer(np.arange(height), np.arange(width)) // 17 % 3
        image = truth[None] * 80 + 40 + rng.integers(0, 20, (2, height, width))
        image[:, :NODATA_CORNER, :NODATA_CORNER] = 0
        grid = {
            "driver": "GTiff",
            "height": height,
            "width": width,
            "crs": "EPSG:32633",
            "transform": from_origin(500000 + 1000 * number, 4000000, 2, 2),
        }
        with rasterio.open(
            folder / "images" / f"{name}.tif", "w", count=2, dtype="uint16", nodata=0, **grid
        ) as sink:
            sink.write(image.astype(np.uint16))
            sink.descriptions = ("nir", "red")
        with rasterio.open(
            folder / "masks" / f"{name}.tif", "w", count=1, dtype="uint8", nodata=255, **grid
        ) as sink:
            sink.write(truth.astype(np.uint8), 1)
    return folder


def write_checkpoint(config: Path, path: Path) -> Path:
    """Write a checkpoint of a config's model with seeded random weights."""
    from hook.engine.configs import load_config, setup_environment
    from hook.engine.models import build_model

    setup_environment()
    cfg = load_config(config)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    meta = cfg.get("metainfo") or {"classes": CLASSES, "bands": ("red", "green", "blue")}
    meta = {key: tuple(v) if isinstance(v, list) else v for key, v in dict(meta).items()}
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": meta}}, path)
    return path
