"""Adapt a config to a user's images: data, sizes, statistics, weights, schedule."""

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
from hook.datasets.statistics import BandStatistics, labelled_statistics
from hook.engine.configs import (
    RUNNER_KEYS,
    as_list,
    build_dataset,
    config_errors,
    merge_options,
)
from hook.engine.runner import set_amp
from hook.errors import ConfigError, DataError
from hook.geo.bands import scale_tags
from hook.geo.raster import open_raster
from hook.progress import progress_bar
from hook.registry import MODELS
from hook.tokenizers import PRESETS
from hook.tokenizers.hook_tokenizer import to_pair

_MIN_BATCHES = 16  # per epoch
# Chips used for statistics and class frequencies: 65 million pixels.
_MOST_CHIPS = 1000
# Transforms that assume red, green and blue bands.
_FOR_RGB = ("ColorJitter", "HueSaturationValue", "RGBShift", "ToGray", "ToSepia", "ChannelShuffle")
_VALIDATIONS = 6
# Of the pretraining: share of valid pixels of a chip, and number of chips that are few.
_LEAST_VALID, _FEW_CHIPS = 0.25, 100
_CHECKPOINTS = 20


def check_base(cfg: Config, base: Any, default: str) -> None:
    """Check that a config trains a segmentation model on a ``GeoTIFFFolder`` by epochs.

    Args:
        cfg: The config.
        base: Its name, for the message.
        default: A valid config, for the message.

    Raises:
        ConfigError: If it does not.
    """
    loader = cfg.get("train_dataloader") or {}
    kind = str((loader.get("dataset") or {}).get("type"))
    found = {
        "a segmentation (model.decode_head)": isinstance(cfg.model.get("decode_head"), dict),
        "a folder of GeoTIFFs (type='hook.GeoTIFFFolder')": kind.endswith("GeoTIFFFolder"),
        "train_cfg of EpochBasedTrainLoop": "max_epochs" in (cfg.get("train_cfg") or {}),
    }
    missing = [what for what, present in found.items() if not present]
    if missing:
        raise ConfigError(
            f"base {base} cannot be adapted to images",
            expected="; ".join(found),
            found="not " + "; ".join(missing),
            remedy=f"start from {default}, or train with tools/train.py",
        )


def fit_sizes(cfg: Config, num_tokens: int | None, chip_size: int, batch_size: int) -> None:
    """Set tokens per chip, chip size in pixels and batch size; mask invalid pixels if supported.

    Like all functions of this module it changes ``cfg``, the config of a segmentation. Without
    ``num_tokens`` queries keep their number, and regions their size.
    """
    tokenizer = cfg.model.backbone.get("tokenizer")
    if tokenizer is not None:
        if num_tokens is not None and "num_tokens" in tokenizer:
            tokenizer.num_tokens = num_tokens
        elif tokenizer.get("preset") == "objects":
            keep_size_of_regions(tokenizer, chip_size)
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
            # On a CPU workers compete with the training, and forking in notebooks is unreliable.
            loader.num_workers, loader.persistent_workers = 0, False


def keep_size_of_regions(tokenizer: dict, chip_size: int) -> None:
    """Set the number of tokens, so that one has as many seeds on average as in the base config."""
    area = math.prod(to_pair(tokenizer.get("img_size", 224)))
    tokenizer["num_tokens"] = max(1, round(tokenizer.get("num_tokens", 6) * chip_size**2 / area))


def fit_data(cfg: Config, found: LabelledImages) -> None:
    """Replace the data of a config, except for the statistics (:func:`set_statistics`).

    Args:
        cfg: Config of a segmentation on :class:`hook.datasets.GeoTIFFFolder`.
        found: The new data, split into parts.
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
    for head in (cfg.model.decode_head, *as_list(cfg.model.get("auxiliary_head"))):
        head.num_classes = len(found.classes)
    with open_raster(found.images[0]) as src:
        is_rgb = len(found.bands) == 3 and set(src.dtypes) == {"uint8"}
        is_rgb = is_rgb and scale_tags(src, src.indexes) is None
    for step in () if is_rgb else cfg.train_dataloader.dataset.pipeline:
        if "transforms" in step:
            step.transforms = [t for t in step.transforms if t.get("type") not in _FOR_RGB]


def measure(
    cfg: Config, how: str, progress: bool = True
) -> tuple[list[float], list[float], np.ndarray]:
    """Compute band statistics and class counts of the training part.

    Args:
        cfg: Config with the user's data.
        how: Description of the split, for messages.
        progress: Show a progress bar.

    Returns:
        Mean and standard deviation of each band, and (K,) pixel counts of the classes.

    Raises:
        DataError: If the training part has fewer than two classes, or the held-out part no label.
    """
    classes = cfg.train_dataloader.dataset.metainfo.classes
    statistics, counts = {}, {}
    for part in ("train", "val"):
        dataset = build_cover(cfg, part, pipeline=[])
        if len(dataset) > _MOST_CHIPS:
            dataset.get_subset_(np.linspace(0, len(dataset) - 1, _MOST_CHIPS).astype(int).tolist())
        statistics[part], counts[part] = labelled_statistics(
            dataset, len(classes), f"{part} data", progress
        )
    seen = np.flatnonzero(counts["train"])
    if len(seen) < 2 or not counts["val"].any():
        raise DataError(
            "the training part has fewer than two classes"
            if len(seen) < 2
            else "the held-out part has no label",
            expected=f"labelled pixels of {', '.join(classes)} in both parts",
            found="; ".join(
                f"{part}: {dict(zip(classes, total.tolist(), strict=True))}"
                for part, total in counts.items()
            ),
            remedy="label more, set the class outside polygons with background=, or select the "
            "held-out part with val= (in a folder with the lists in splits/)",
        )
    for part, total in counts.items():
        absent = [classes[index] for index in np.flatnonzero(total == 0)]
        if absent:
            warnings.warn(
                f"no pixel of {', '.join(absent)} in the {part} part ({how}); val= selects the "
                "held-out part",
                stacklevel=3,
            )
    return *_rounded(statistics["train"]), counts["train"]


def _rounded(statistics: BandStatistics) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each band in six digits."""
    result = statistics.result()
    mean = [float(f"{value:.6g}") for value in result["mean"]]
    # A constant band must not divide by zero.
    return mean, [float(f"{value:.6g}") or 1.0 for value in result["std"]]


def set_statistics(
    cfg: Config, mean: Sequence[float], std: Sequence[float], counts: np.ndarray
) -> None:
    """Set band statistics and class weights; arguments as returned by :func:`measure`."""
    for part in PARTS:
        cfg[f"{part}_dataloader"].dataset.metainfo.update(mean=mean, std=std)
    cfg.model.data_preprocessor.update(mean=mean, std=std)
    cfg.model.decode_head.loss_decode.class_weight = class_weights(counts)


def class_weights(counts: np.ndarray) -> list[float]:
    """Return the inverse square root of the class frequencies as weights, so that rare ones count.

    Args:
        counts: (K,) training pixels of each class.

    Returns:
        K weights with mean 1 over the training pixels, at most 10; 1 for absent classes.
    """
    share = counts / counts.sum()
    weight = np.where(share > 0, 1 / np.sqrt(np.maximum(share, 1e-12)), 0)
    weight = np.minimum(weight / (share * weight).sum(), 10)
    return [round(float(w), 3) for w in np.where(share > 0, weight, 1)]


def fit_run(cfg: Config, work_dir: Path, seed: int | None, pretrained: str | Path | None) -> None:
    """Set work dir, seed and initial weights; no checkpoint is selected on the held-out part.

    Raises:
        CheckpointError: If ``pretrained`` cannot be read.
    """
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(cfg.get("randomness") or {}, seed=seed)
    cfg.load_from, cfg.resume = None, False
    if pretrained is not None:
        if "://" not in str(pretrained):
            load_checkpoint(pretrained)  # fails before the data are read
        cfg.load_from = str(pretrained)
    # Keep the last two epochs to resume from.
    cfg.default_hooks.checkpoint.update(save_best=None, interval=1, max_keep_ckpts=2)
    cfg.default_hooks.checkpoint.pop("rule", None)
    set_amp(cfg, asked=False)
    # Variables of the base config describe different data.
    for key in set(cfg) - RUNNER_KEYS | {"data_preprocessor"}:
        cfg.pop(key, None)


def fit_schedule(cfg: Config, epochs: int, options: Mapping[str, Any]) -> None:
    """Set the epoch length to the chips that cover the training part, and scale the schedule.

    Args:
        cfg: Config with everything else.
        epochs: Number of epochs.
        options: Dotted keys of the config to override afterwards.

    Raises:
        ConfigError: If ``options`` cannot be merged.
    """
    loader = cfg.train_dataloader
    loader.dataset.pop("length", None)
    chips = len(build_dataset(cfg, "train", lambda section: {**section, "mode": "random"}))
    loader.dataset.length = max(chips, _MIN_BATCHES * loader.batch_size)
    merge_options(cfg, options, "cfg_options")
    loader = cfg.train_dataloader
    _scale_schedule(cfg, epochs, math.ceil(loader.dataset.length / loader.batch_size))
    cfg.train_cfg.val_interval = max(1, epochs // _VALIDATIONS)
    merge_options(cfg, options, "cfg_options")  # again, to override the schedule


def _scale_schedule(cfg: Config, epochs: int, steps: int) -> None:
    """Scale the schedule to a number of epochs with so many steps each."""
    factor = epochs / cfg.train_cfg.max_epochs
    kept = []
    for scheduler in as_list(cfg.get("param_scheduler")):
        if scheduler.get("by_epoch", True):
            for key in ("begin", "end", "T_max"):
                if scheduler.get(key) is not None:
                    scheduler[key] = round(scheduler[key] * factor, 6)
            length = scheduler.get("end", epochs) - scheduler.get("begin", 0)
            if int(length * steps) < 1:
                continue  # a warm-up of less than one step
            scheduler.convert_to_iter_based = True
        kept.append(scheduler)
    cfg.param_scheduler = kept
    cfg.train_cfg.max_epochs = epochs


def build_cover(cfg: Config, part: str, **options: Any) -> Any:
    """Build the data set of a part as a cover in model units, without augmentation.

    Args:
        cfg: The config.
        part: ``"train"``, ``"val"`` or ``"test"``.
        **options: Further options of the data set.
    """
    defaults = dict(mode="cover", test_mode=True, pipeline=[dict(type="hook.PackSegSample")])
    return build_dataset(cfg, part, lambda section: {**section, **defaults, **options})


# ---------------------------------------------------------------------------------- pretraining
def check_pretraining_base(cfg: Config, base: Any, default: str) -> None:
    """Check that a config pretrains a HOOK model by epochs.

    Args:
        cfg: The config.
        base: Its name, for the message.
        default: A valid config, for the message.

    Raises:
        ConfigError: If it does not.
    """
    kind = str(cfg.model.get("type"))
    by_epoch = "max_epochs" in (cfg.get("train_cfg") or {})
    if not kind.endswith("TokenPretrainer") or not by_epoch:
        raise ConfigError(
            f"base {base} cannot be adapted to images without labels",
            expected="a hook.TokenPretrainer, and train_cfg of EpochBasedTrainLoop",
            found=kind if by_epoch else f"{kind}, train_cfg without max_epochs",
            remedy=f"start from {default}, or train with tools/train.py",
        )


def fit_frozen(
    cfg: Config, frozen: bool | str | Mapping | None, bands: Sequence[int] | None
) -> None:
    """Set the frozen network of a pretraining, and build it once to see that it can be.

    Args:
        cfg: The config.
        frozen: True for that of the config; timm's name of another one, or options of
            :class:`hook.models.FrozenBackbone`; False or None for none.
        bands: Indexes of the bands that it sees; None: all.

    Raises:
        ConfigError: The network cannot be built, or does not see these bands.
        CheckpointError: Its weights cannot be read.
    """
    model = cfg.model
    if not frozen or (frozen is True and model.get("frozen") is None):
        model.frozen, model.feature_channels = None, 0
        model.losses = [one for one in model.losses if not MODELS.get(one.type).needs_frozen]
        cfg.custom_hooks = [
            one
            for one in as_list(cfg.get("custom_hooks"))
            if not str(one.type).endswith("FrozenFeatureHook")
        ]
        return
    changes = {} if frozen is True else frozen
    if isinstance(frozen, str):
        changes = dict(model=frozen, weights=True)
    options = dict(type="hook.FrozenBackbone") | dict(model.get("frozen") or {})
    if "img_size" in changes:
        options.pop("scale", None)  # the two exclude each other
    options |= dict(changes)
    if bands is not None:
        options["bands"] = list(bands)
    with config_errors("frozen"):
        network = MODELS.build(dict(options))
    network.check_bands(model.backbone.tokenizer.in_channels)
    model.frozen, model.feature_channels = options, sum(network.channels)


def fit_unlabelled(
    cfg: Config, images: Sequence[str], bands: Sequence[str | int], chip_size: int, batch_size: int
) -> None:
    """Replace data and sizes of a pretraining, except for statistics (:func:`choose_chips`).

    Args:
        cfg: The config. A token has as many seeds on average as in it.
        images: Files with the same bands.
        bands: Names or 1-based numbers of the bands, in the model's order.
        chip_size: Side of the chips in pixels.
        batch_size: Chips per step.
    """
    if cfg.get("data_preprocessor") is not None:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    tokenizer = cfg.model.backbone.tokenizer
    if "num_tokens" in tokenizer:
        keep_size_of_regions(tokenizer, chip_size)
    tokenizer.img_size, tokenizer.in_channels = chip_size, len(bands)
    takes_valid = PRESETS.get(tokenizer.get("preset"), {}).get("takes_valid", False)
    cfg.model.data_preprocessor.mark_invalid = takes_valid
    loader = cfg.train_dataloader
    loader.batch_size = batch_size
    if not torch.cuda.is_available():  # see fit_sizes
        loader.num_workers, loader.persistent_workers = 0, False
    loader.pop("dataset")
    loader.dataset = dict(
        type="hook.GeoTIFFFolder",
        images=list(images),
        grid="image",
        mode="cover",
        chip_size=chip_size,
        metainfo=dict(bands=tuple(bands), scale=1.0, offset=0.0),
        pipeline=[dict(type="hook.PackClsSample")],
    )
    for part in ("val", "test"):
        for key in ("dataloader", "evaluator", "cfg"):
            cfg.pop(f"{part}_{key}", None)


def choose_chips(cfg: Config, max_chips: int, seed: int, progress: bool = True) -> int:
    """Choose the chips of a pretraining, and set them and the statistics of their bands.

    Chips are those of a cover of the images with a quarter of valid pixels or more.

    Args:
        cfg: Config of :func:`fit_unlabelled`.
        max_chips: Number of chips to look at; more are drawn from.
        seed: Random seed of that draw.
        progress: Show a progress bar.

    Returns:
        Number of chips.

    Raises:
        DataError: There are fewer than two such chips.
    """
    dataset = build_dataset(cfg, "train", lambda section: {**section, "pipeline": []})
    chosen = np.arange(len(dataset))
    if len(dataset) > max_chips:
        draw = np.random.default_rng(seed)
        chosen = np.sort(draw.choice(len(dataset), max_chips, replace=False))
    statistics, kept, valid = BandStatistics(), [], 0
    bar = dict(desc="images", unit="chip", leave=False, delay=2, show=progress)
    for index in progress_bar(chosen.tolist(), **bar):
        sample = dataset[index]
        share = sample["valid"].mean()
        valid += share > 0
        if share >= _LEAST_VALID:
            kept.append(index)
            statistics.update(np.atleast_3d(sample["img"]), sample["valid"])
    size = cfg.train_dataloader.dataset.chip_size
    if len(kept) < 2:
        raise DataError(
            f"the images have too few chips of {size} px to learn from",
            expected=f"two or more with {_LEAST_VALID:.0%} of valid pixels, better hundreds",
            found=f"{len(kept)} of {len(chosen)}; {valid} with any valid pixel",
            remedy="use a smaller chip_size or more images, or correct their nodata value",
        )
    if len(kept) < _FEW_CHIPS:
        warnings.warn(
            f"only {len(kept)} chips of {size} px to learn from; a smaller chip_size or more "
            "images give more",
            stacklevel=3,
        )
    section = cfg.train_dataloader.dataset
    if len(kept) < len(dataset):
        section.indices = kept
    mean, std = _rounded(statistics)
    section.metainfo.update(mean=mean, std=std)
    cfg.model.data_preprocessor.update(mean=mean, std=std)
    return len(kept)


def fit_epochs(cfg: Config, epochs: int, chips: int, options: Mapping[str, Any]) -> None:
    """Scale the schedule of a pretraining to its epochs; see :func:`fit_schedule`.

    Args:
        cfg: Config with everything else.
        epochs: Number of epochs.
        chips: Chips per epoch.
        options: Dotted keys of the config to override.

    Raises:
        ConfigError: If ``options`` cannot be merged.
    """
    merge_options(cfg, options, "cfg_options")
    _scale_schedule(cfg, epochs, math.ceil(chips / cfg.train_dataloader.batch_size))
    cfg.default_hooks.checkpoint.interval = max(1, epochs // _CHECKPOINTS)
    merge_options(cfg, options, "cfg_options")  # again, to override the schedule
