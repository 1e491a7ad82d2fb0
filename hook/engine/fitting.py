"""Fit a config to a user's images and labels: data, sizes, statistics, class weights, schedule."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from hook.checkpoint import load_checkpoint
from hook.datasets.holdout import PARTS
from hook.datasets.inspection import LabelledImages
from hook.datasets.statistics import labelled_statistics
from hook.engine.configs import RUNNER_KEYS, as_list, build_dataset
from hook.engine.runner import set_amp
from hook.errors import ConfigError, DataError
from hook.geo.raster import open_raster
from hook.tokenizers import PRESETS

# An epoch of a few chips would end a training before it has begun.
_LEAST_BATCHES = 16
# Chips of a large scene that statistics and class shares are taken from: 65 million pixels.
_MOST_CHIPS = 1000
# Transforms that read three bands as red, green and blue.
_FOR_RGB = ("ColorJitter", "HueSaturationValue", "RGBShift", "ToGray", "ToSepia", "ChannelShuffle")
_VALIDATIONS = 6


def check_base(cfg: Config, base: Any, default: str) -> None:
    """Check that a config trains a segmentation on a folder by epochs.

    Args:
        cfg: The config.
        base: Its name, for the message.
        default: One that does.

    Raises:
        ConfigError: It does not.
    """
    loader = cfg.get("train_dataloader") or {}
    kind = str((loader.get("dataset") or {}).get("type"))
    found = {
        "a segmentation (model.decode_head)": isinstance(cfg.model.get("decode_head"), dict),
        "a folder of GeoTIFFs (type='hook.GeoTIFFFolder')": kind.endswith("GeoTIFFFolder"),
        "train_cfg of EpochBasedTrainLoop": "max_epochs" in (cfg.get("train_cfg") or {}),
    }
    missing = [what for what, there in found.items() if not there]
    if missing:
        raise ConfigError(
            f"base {base} is no config that can be fitted to images",
            expected="; ".join(found),
            found="not " + "; ".join(missing),
            remedy=f"start from {default}, or train with tools/train.py",
        )


def fit_sizes(cfg: Config, num_tokens: int, chip_size: int, batch_size: int) -> None:
    """Set the number of tokens and the sizes; let the tokenizer ignore invalid pixels if it can.

    Args:
        cfg: Config of a segmentation; it is changed, here and in all functions of this module.
        num_tokens: Tokens of a chip.
        chip_size: Side of a chip in pixels.
        batch_size: Chips of a batch.
    """
    tokenizer = cfg.model.backbone.get("tokenizer")
    if tokenizer is not None:
        if "num_tokens" in tokenizer:
            tokenizer.num_tokens = num_tokens
        tokenizer.img_size = chip_size
    if cfg.get("data_preprocessor") is not None:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    if "size" in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.size = (chip_size, chip_size)
    if PRESETS.get((tokenizer or {}).get("preset"), {}).get("takes_valid"):
        cfg.model.data_preprocessor.mark_invalid = True
    for part in PARTS:
        loader = cfg[f"{part}_dataloader"]
        loader.batch_size = batch_size
        loader.dataset.chip_size = chip_size
        if not torch.cuda.is_available():
            # The CPU trains; reading beside it only takes from it, and notebooks fork badly.
            loader.num_workers, loader.persistent_workers = 0, False


def fit_data(cfg: Config, found: LabelledImages) -> None:
    """Replace the data of a config by a user's; :func:`set_statistics` does the rest.

    Args:
        cfg: Config of a segmentation on :class:`hook.datasets.GeoTIFFFolder`.
        found: The user's data, divided into parts.
    """
    meta = dict(
        classes=tuple(found.classes),
        palette=found.palette,
        bands=tuple(found.bands),
        scale=1.0,
        offset=0.0,
    )
    for part, options in found.splits.items():
        dataset = cfg[f"{part}_dataloader"].dataset
        dataset.metainfo = meta
        dataset.data_root = ""
        dataset.images = options.get("images") or found.images
        dataset.masks = found.masks[0] if len(found.masks) == 1 else found.masks
        dataset.split = options.get("split")
        dataset.grid = "image"
        dataset.update(found.options)
    backbone = cfg.model.backbone
    (backbone.get("tokenizer") or backbone).in_channels = len(found.bands)
    cfg.model.decode_head.num_classes = len(found.classes)
    with open_raster(found.images[0]) as src:
        is_picture = len(found.bands) == 3 and set(src.dtypes) == {"uint8"}
    for step in () if is_picture else cfg.train_dataloader.dataset.pipeline:
        if "transforms" in step:
            step.transforms = [t for t in step.transforms if t.get("type") not in _FOR_RGB]


def measure(
    cfg: Config, how: str, progress: bool = True
) -> tuple[list[float], list[float], np.ndarray]:
    """Compute band statistics and count the classes of the training part.

    Args:
        cfg: Config with the user's data.
        how: How they were divided, for messages.
        progress: Show a progress bar.

    Returns:
        Mean and standard deviation of each band, and (K,) pixels of each class.

    Raises:
        DataError: The training part shows fewer than two classes, or the one held out no label.
    """
    classes = cfg.train_dataloader.dataset.metainfo.classes
    statistics, counts = {}, {}
    for part in ("train", "val"):
        dataset = cover_of(cfg, part, pipeline=[])
        if len(dataset) > _MOST_CHIPS:
            dataset.get_subset_(np.linspace(0, len(dataset) - 1, _MOST_CHIPS).astype(int).tolist())
        statistics[part], counts[part] = labelled_statistics(
            dataset, len(classes), f"{part} data", progress
        )
    seen = np.flatnonzero(counts["train"])
    if len(seen) < 2 or not counts["val"].any():
        raise DataError(
            "the training part shows fewer than two classes"
            if len(seen) < 2
            else "the part held out has no label",
            expected=f"labelled pixels of {', '.join(classes)} in both parts",
            found="; ".join(
                f"{part}: {dict(zip(classes, total.tolist(), strict=True))}"
                for part, total in counts.items()
            ),
            remedy="label more, name what lies between polygons with background=, or choose the "
            "part held out with val= (in a folder with the lists in splits/)",
        )
    for part, total in counts.items():
        absent = [classes[index] for index in np.flatnonzero(total == 0)]
        if absent:
            warnings.warn(
                f"no pixel of {', '.join(absent)} in the {part} part ({how}); val= chooses what is "
                "held out",
                stacklevel=3,
            )
    result = statistics["train"].result()
    mean = [float(f"{value:.6g}") for value in result["mean"]]
    # A band that never changes says nothing; it must not divide by zero.
    std = [float(f"{value:.6g}") or 1.0 for value in result["std"]]
    return mean, std, counts["train"]


def set_statistics(
    cfg: Config, mean: Sequence[float], std: Sequence[float], counts: np.ndarray
) -> None:
    """Write band statistics and class weights of the training part into a config.

    Args:
        cfg: The config.
        mean: Of each band.
        std: Standard deviation of each band.
        counts: (K,) training pixels of each class.
    """
    for part in PARTS:
        cfg[f"{part}_dataloader"].dataset.metainfo.update(mean=mean, std=std)
    cfg.model.data_preprocessor.update(mean=mean, std=std)
    cfg.model.decode_head.loss_decode.class_weight = class_weights(counts)


def class_weights(counts: np.ndarray) -> list[float]:
    """Weigh classes by the inverse square root of their frequency, so that rare ones are learned.

    Args:
        counts: (K,) training pixels of each class.

    Returns:
        K weights whose mean over the training pixels is 1, at most 10; 1 for absent classes.
    """
    share = counts / counts.sum()
    weight = np.where(share > 0, 1 / np.sqrt(np.maximum(share, 1e-12)), 0)
    weight = np.minimum(weight / (share * weight).sum(), 10)
    return [round(float(w), 3) for w in np.where(share > 0, weight, 1)]


def fit_run(cfg: Config, work_dir: Path, seed: int | None, pretrained: Path | None) -> None:
    """Set where a training writes, its seed and its start; nothing is chosen by the part held out.

    Raises:
        CheckpointError: ``pretrained`` cannot be read.
    """
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(cfg.get("randomness") or {}, seed=seed)
    cfg.load_from, cfg.resume = None, False
    if pretrained is not None:
        load_checkpoint(pretrained)  # a bad one shows before the data are read
        cfg.load_from = str(pretrained)
    # The last two epochs stay, to go on from.
    cfg.default_hooks.checkpoint.update(save_best=None, interval=1, max_keep_ckpts=2)
    cfg.default_hooks.checkpoint.pop("rule", None)
    set_amp(cfg, asked=False)
    # What only built the base's parts would tell a reader of the new config of other data.
    for key in set(cfg) - RUNNER_KEYS | {"data_preprocessor"}:
        cfg.pop(key, None)


def fit_schedule(cfg: Config, epochs: int, options: Mapping[str, Any]) -> None:
    """Let an epoch be as many chips as cover the training part, and stretch the base's schedule.

    Args:
        cfg: Config with everything else.
        epochs: Epochs.
        options: Dotted keys of the config to overwrite, at last.

    Raises:
        ConfigError: ``options`` cannot be merged.
    """
    loader = cfg.train_dataloader
    loader.dataset.pop("length", None)
    chips = len(build_dataset(cfg, "train", lambda section: {**section, "mode": "random"}))
    loader.dataset.length = max(chips, _LEAST_BATCHES * loader.batch_size)
    merge_options(cfg, options)
    loader = cfg.train_dataloader
    steps = math.ceil(loader.dataset.length / loader.batch_size)
    stretch = epochs / cfg.train_cfg.max_epochs
    kept = []
    for scheduler in as_list(cfg.get("param_scheduler")):
        if scheduler.get("by_epoch", True):
            for key in ("begin", "end", "T_max"):
                if scheduler.get(key) is not None:
                    scheduler[key] = round(scheduler[key] * stretch, 6)
            length = scheduler.get("end", epochs) - scheduler.get("begin", 0)
            if int(length * steps) < 1:
                continue  # a warm-up of less than one step
            scheduler.convert_to_iter_based = True
        kept.append(scheduler)
    cfg.param_scheduler = kept
    cfg.train_cfg.max_epochs = epochs
    cfg.train_cfg.val_interval = max(1, epochs // _VALIDATIONS)
    merge_options(cfg, options)  # the schedule too is the caller's to change


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Overwrite settings of a config.

    Raises:
        ConfigError: A key cannot be merged.
    """
    try:
        cfg.merge_from_dict(dict(options))
    except Exception as error:
        raise ConfigError(
            f"cfg_options {dict(options)} cannot be merged",
            expected="dotted keys of the config, such as optim_wrapper.optimizer.lr",
            found=f"{type(error).__name__}: {error}",
            remedy="name keys as they stand in config.py of the work dir",
        ) from error


def cover_of(cfg: Config, part: str, **options: Any) -> Any:
    """Build a part's data set as a deterministic cover in model units, without augmentation.

    Args:
        cfg: The config.
        part: ``"train"``, ``"val"`` or ``"test"``.
        **options: Further options of the data set.
    """
    usual = dict(mode="cover", test_mode=True, pipeline=[dict(type="hook.PackSegSample")])
    return build_dataset(cfg, part, lambda section: {**section, **usual, **options})
