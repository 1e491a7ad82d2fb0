"""From a folder of GeoTIFFs and labels to a trained segmentation model."""

import contextlib
import io
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import torch
from mmengine.config import Config

from hook.apis.folders import (
    Colour,
    LabelledImages,
    check_share,
    hold_out,
    inspect_files,
    open_image,
)
from hook.arguments import file_name, refused, whole_number
from hook.checkpoint import find_resumable, load_checkpoint
from hook.datasets.files import list_files
from hook.datasets.statistics import BandStatistics, inside_scene, samples
from hook.engine.configs import find_config
from hook.engine.devices import check_device
from hook.engine.models import use_scope_of
from hook.engine.progress import QuietRunner, TrainingProgressHook, use_device
from hook.engine.runner import (
    RUNNER_KEYS,
    as_list,
    build_runner,
    config_errors,
    load_config,
    make_folder,
    set_amp,
    set_resume,
    setup_environment,
)
from hook.errors import ConfigError, DataError
from hook.geo.arrays import check_array, is_array, write_array
from hook.geo.raster import RASTER_SUFFIXES
from hook.progress import progress_bar
from hook.registry import DATASETS
from hook.zoo import find_model

DEFAULT_BASE = "hook-fast-skip_vit-192x6_banepa-256"
# An epoch of a few chips would end a training before it has begun.
_LEAST_BATCHES = 16
# Chips of a large scene that statistics and class shares are taken from: 65 million pixels.
_MOST_CHIPS = 1000
# Transforms that read three bands as red, green and blue.
_FOR_RGB = ("ColorJitter", "HueSaturationValue", "RGBShift", "ToGray", "ToSepia", "ChannelShuffle")
_VALIDATIONS = 6


@dataclass(frozen=True)
class TrainingResult:
    """What a training left.

    Attributes:
        config: The config; ``tools/train.py`` and every ``hook`` command take it.
        checkpoint: Weights and dataset meta after the last epoch.
        metrics: On the part held out, in percent: ``mIoU``, ``aAcc`` (overall accuracy), ``mAcc``
            and ``IoU.<class>``; those that the base config asks for besides.
        work_dir: The folder of all this.
        log: MMEngine's log of the run.
        curves: A row per epoch: ``loss`` (mean), ``lr``, and the metrics where it was validated.
    """

    config: Path
    checkpoint: Path
    metrics: dict[str, float]
    work_dir: Path
    log: Path | None
    curves: pd.DataFrame = field(repr=False)


def train(
    images: Any,
    labels: Any,
    work_dir: str | os.PathLike,
    *,
    label: str | None = None,
    classes: Sequence[str] | Mapping[Any, str] | None = None,
    palette: Sequence[Colour] | Mapping[str, Colour] | None = None,
    background: str | None = None,
    base: str | os.PathLike = DEFAULT_BASE,
    num_tokens: int = 8,
    chip_size: int = 256,
    epochs: int = 12,
    batch_size: int = 8,
    val_fraction: float = 0.2,
    val: Any = None,
    seed: int | None = 0,
    device: str | None = None,
    pretrained: str | os.PathLike | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    progress: bool = True,
    overwrite: bool = False,
    resume: bool = False,
) -> TrainingResult:
    """Train a segmentation model on GeoTIFFs and their labels.

    Bands, classes and colours are read from the files, statistics are computed on the part that is
    trained on, classes are weighted by the inverse square root of their frequency. A part is held
    out: nothing is chosen by it, so that the metrics are those of unseen ground. Without a GPU a
    scene of 2,000 x 2,000 pixels takes minutes.

    Args:
        images: Folder(s) or file(s) of georeferenced images with the same bands, of any number and
            data type; or ``xarray.DataArray``(s) (band, y, x) with CRS and grid.
        labels: Folder(s) or file(s) of masks (class per pixel, one per image by name, or wherever
            the image lies) or of polygons in any CRS and vector format; a GeoDataFrame of polygons,
            or masks as DataArrays (y, x) in the order of the images.
        work_dir: Folder for config, checkpoint and log; it is made. Arrays are written there too.
        label: Attribute of the polygons that holds the class. Without it all are of one class.
        classes: Names in the order of the labels, or a name for each value of the masks or of
            ``label``; values left out are then ignored. None takes the names found.
        palette: ``(red, green, blue)`` or ``'#rrggbb'`` for each class, or by name. None takes the
            mask's colour table, else distinct colours.
        background: Class where no polygon lies, or where a mask has its nodata value. None: nothing
            is learned there, unless the polygons are all of one class: then it is ``background``.
        base: Config to start from, by path or name: the model, augmentation and schedule of a
            segmentation that is trained by epochs.
        num_tokens: Tokens for each chip.
        chip_size: Side in pixels of what the model sees at once.
        epochs: Rounds; in each as many chips are drawn as cover the images, and at least 16
            batches.
        batch_size: Chips per step.
        val_fraction: Share held out where ``val`` is None: of several images the ones at one end of
            the region, of a single one a strip of it.
        val: What to hold out: names of images or a file with a list of them, or an area: a vector
            file, a table of polygons, or ``dict(bounds=(minx, miny, maxx, maxy), crs=...)``.
        seed: Of weights and chips; None draws one.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``; None takes a GPU where there is one.
        pretrained: Checkpoint, or name of a model, to start from; weights that do not fit are left
            out.
        cfg_options: Dotted keys of the config to overwrite, at last, such as
            ``{"optim_wrapper.optimizer.lr": 1e-4}``.
        progress: Show a progress bar; elsewhere than on a terminal or in a notebook, ten lines.
        overwrite: Replace what an earlier training left in ``work_dir``.
        resume: Go on with an interrupted training with the same arguments.

    Returns:
        Files, metrics and curves.

    Raises:
        ConfigError: An argument cannot be used.
        DataError: The files are missing, contradict each other, or show fewer than two classes.
        CheckpointError: ``pretrained`` cannot be read or fits nowhere.

    Example:
        >>> result = train("images", "buildings.gpkg", "work_dirs/buildings", epochs=20)
        >>> result.metrics["IoU.object"]
    """
    for name, value in (
        ("num_tokens", num_tokens),
        ("chip_size", chip_size),
        ("epochs", epochs),
        ("batch_size", batch_size),
    ):
        whole_number(name, value)
    if seed is not None:  # None draws one
        whole_number("seed", seed, 0, 2**32 - 1)
    if val is None:
        check_share("val_fraction", val_fraction)
    elif not isinstance(val, str | os.PathLike | Iterable):
        raise refused("val", val, "names of images, a file with a list of them, or an area")
    if device is not None:
        check_device(device)
    if not isinstance(cfg_options, Mapping | None):
        raise refused("cfg_options", cfg_options, "a dict of dotted keys of the config")
    for name, value in (("classes", classes), ("palette", palette)):
        if isinstance(value, str) or (value is not None and not hasattr(value, "__len__")):
            raise refused(name, value, "a list, one for each class, or a dict")
    for name, value in (("work_dir", work_dir), ("base", base)):
        file_name(name, value)
    if pretrained is not None:
        file_name("pretrained", pretrained, "a checkpoint, or the name of a model")
    images = _check_files("images", images)
    if not isinstance(labels, geopandas.GeoDataFrame | geopandas.GeoSeries):
        labels = _check_files("labels", labels)
    setup_environment()
    cfg = load_config(find_config(base))
    _check_base(cfg, base)
    _check_chip_size(chip_size, images)
    out = _prepare_work_dir(Path(work_dir).expanduser(), overwrite, resume)
    found = inspect_files(
        _files_of_arrays(images, out / "arrays" / "images"),
        _file_of_labels(labels, out),
        label=label,
        classes=classes,
        palette=palette,
        background=background,
    )
    hold_out(found, val_fraction, val, out)
    found.splits["test"] = dict(found.splits["val"])
    use_scope_of(cfg)
    _fit_config_to_sizes(cfg, num_tokens, chip_size, batch_size)
    fit_config_to_data(cfg, found)
    statistics, counts = _measure(cfg, found, progress)
    set_statistics(cfg, statistics["mean"], statistics["std"], counts)
    _fit_pipelines(cfg, found)
    _fit_run(cfg, out, seed, pretrained)
    _fit_length(cfg, batch_size)
    _merge(cfg, cfg_options or {})
    _fit_schedule(cfg, epochs)
    _merge(cfg, cfg_options or {})  # the schedule too is the caller's to change
    config = out / "config.py"
    _write_config(cfg, config, resume)
    # What is trained is what a reader goes on with. Each checkpoint holds the config as text, and
    # MMEngine would take a second each time to lay it out prettily.
    cfg = Config(load_config(config).to_dict(), filename=str(config), format_python_code=False)
    if resume:
        set_resume(cfg, "auto")
    try:
        run_training(cfg, progress, device)
    except BaseException:
        if not resume and find_resumable(out) is None:
            config.unlink()  # nothing to go on with: the next attempt is a first one again
        raise
    checkpoint = out / "checkpoint.pth"
    _keep_weights(find_resumable(out), checkpoint)
    curves = read_curves(out)
    logs = sorted(out.glob("*/*.log"))
    return TrainingResult(
        config, checkpoint, _last_metrics(curves), out, logs[-1] if logs else None, curves
    )


# ---------------------------------------------------------------------------------- the arguments
def _check_files(name: str, given: Any) -> list[Any]:
    """Take names of files and folders, or arrays."""
    try:
        paths = [given] if isinstance(given, str | os.PathLike) or is_array(given) else list(given)
    except TypeError:
        paths = [given]
    for path in paths:
        if is_array(path):
            check_array(path)
        else:
            file_name(name, path, "files, folders or arrays")
    return paths


def _check_chip_size(chip_size: int, images: Sequence[Any]) -> None:
    """Refuse chips of which more than half would be padding in both directions, in all images.

    Raises:
        ConfigError: No image has half of a chip's side in any direction.
    """
    files = [image for image in images if not is_array(image)]
    longest = max((max(check_array(image)) for image in images if is_array(image)), default=0)
    if chip_size <= 2 * longest:
        return
    for path in list_files(files, "", None, RASTER_SUFFIXES, "images") if files else ():
        with open_image(Path(path)) as source:
            longest = max(longest, source.height, source.width)
        if chip_size <= 2 * longest:
            return
    raise ConfigError(
        f"chip_size={chip_size} is too large for the images: chips would be mostly padding",
        expected="an image of half a chip's side or more",
        found=f"images of {longest} pixels at most along a side",
        remedy=f"give a chip_size of {longest} or less",
    )


# ---------------------------------------------------------------------------------- the folder
def _prepare_work_dir(out: Path, overwrite: bool, resume: bool) -> Path:
    """Make the folder; refuse or remove what an earlier training left there."""
    if overwrite and resume:
        raise ConfigError(
            "overwrite and resume exclude each other",
            expected="one of them",
            found="both",
            remedy="resume goes on with what is there, overwrite begins afresh",
        )
    make_folder(out, "work_dir")
    if (out / "config.py").exists() and not (overwrite or resume):
        raise ConfigError(
            f"work_dir {out} holds a training already",
            expected="a folder without one",
            found=f"{out / 'config.py'}",
            remedy="choose another folder, or give overwrite=True or resume=True",
        )
    if overwrite:
        remove_checkpoints(out)
        for scalars in out.glob("*/vis_data/scalars.json"):
            shutil.rmtree(scalars.parents[1])  # a run's folder: log and curves
        for name in ("config.py", "checkpoint.pth", "labels.gpkg", "split.gpkg"):
            (out / name).unlink(missing_ok=True)
    return out


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of an earlier run, which a new one would take for its own."""
    for stale in (*folder.glob("*.pth"), folder / "last_checkpoint"):
        stale.unlink(missing_ok=True)


def _files_of_arrays(given: Sequence[Any], folder: Path, classes: bool = False) -> list[Any]:
    """Put arrays into files, for data-loader workers and later runs to read."""
    files = list(given)
    for number, image in enumerate(files):
        if is_array(image):
            folder.mkdir(parents=True, exist_ok=True)
            files[number] = folder / f"array_{number}.tif"
            write_array(files[number], image, classes)
    return files


def _file_of_labels(labels: Any, out: Path) -> Any:
    """Put a table of polygons, or masks as arrays, into files."""
    if not isinstance(labels, geopandas.GeoDataFrame | geopandas.GeoSeries):
        return _files_of_arrays(labels, out / "arrays" / "masks", classes=True)
    if not len(labels) or labels.crs is None:
        raise DataError(
            "labels: the table cannot be placed",
            expected="polygons with a CRS",
            found=f"{len(labels)} rows, CRS {labels.crs}",
            remedy="set the CRS with labels.set_crs(...)",
        )
    path = out / "labels.gpkg"
    path.unlink(missing_ok=True)
    table = labels if isinstance(labels, geopandas.GeoDataFrame) else labels.to_frame("geometry")
    table.to_file(path)
    return path


def _write_config(cfg: Config, path: Path, resume: bool) -> None:
    """Write the config, or see that an interrupted training had the same."""
    if resume and path.is_file():
        before, now = (_settings(c) for c in (Config.fromfile(path), cfg))
        other = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if other:
            raise ConfigError(
                f"{path}: the interrupted training had other settings",
                expected="the same arguments as before",
                found=f"differences in {', '.join(other)}",
                remedy="give the same arguments, or begin afresh with overwrite=True",
            )
        return
    part = path.with_name(f".{path.name}")
    cfg.dump(str(part))
    os.replace(part, path)


def _settings(cfg: Config) -> dict[str, Any]:
    # As text, so that lists and tuples are one.
    plain = json.loads(json.dumps(cfg.to_dict(), default=str, sort_keys=True))
    return {k: v for k, v in plain.items() if k not in ("resume", "load_from", "work_dir")}


def _keep_weights(source: Path | None, target: Path) -> None:
    """Write the last checkpoint without what only a training needs."""
    if source is None:
        raise ConfigError(
            "the training left no checkpoint",
            expected="default_hooks.checkpoint",
            found="none",
            remedy="start from a base config with default_hooks.checkpoint=dict(interval=1)",
        )
    content = load_checkpoint(source)
    part = target.with_name(f".{target.name}.part")
    torch.save({key: content[key] for key in ("meta", "state_dict") if key in content}, part)
    os.replace(part, target)


# ---------------------------------------------------------------------------------- the config
def _check_base(cfg: Config, base: Any) -> None:
    """Refuse a config that does not train a segmentation on a folder by epochs."""
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
            remedy=f"start from {DEFAULT_BASE}, or train with tools/train.py",
        )


def _fit_config_to_sizes(cfg: Config, num_tokens: int, chip_size: int, batch_size: int) -> None:
    tokenizer = cfg.model.backbone.get("tokenizer")
    if tokenizer is not None:
        if "num_tokens" in tokenizer:
            tokenizer.num_tokens = num_tokens
        tokenizer.img_size = chip_size
    if cfg.get("data_preprocessor") is not None:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    if "size" in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.size = (chip_size, chip_size)
    for part in ("train", "val", "test"):
        loader = cfg[f"{part}_dataloader"]
        loader.batch_size = batch_size
        loader.dataset.chip_size = chip_size
        if not torch.cuda.is_available():
            # The CPU trains; reading beside it only takes from it, and notebooks fork badly.
            loader.num_workers, loader.persistent_workers = 0, False


def fit_config_to_data(cfg: Config, found: LabelledImages) -> None:
    """Replace the data of a config by a user's; statistics come later.

    Args:
        cfg: Config of a segmentation on :class:`hook.datasets.GeoTIFFFolder`; it is changed.
        found: The user's data, divided into parts.
    """
    meta = dict(
        classes=tuple(found.classes),
        palette=found.palette,
        bands=tuple(found.bands),
        scale=1.0,
        offset=0.0,
    )
    masks = [str(path) for path in found.masks]
    for part, options in found.splits.items():
        dataset = cfg[f"{part}_dataloader"].dataset
        dataset.metainfo = meta
        dataset.data_root = ""
        dataset.images = options.get("images") or [str(path) for path in found.images]
        dataset.masks = masks[0] if len(masks) == 1 else masks
        dataset.split = options.get("split")
        dataset.grid = "image"
        dataset.update(found.options)
    backbone = cfg.model.backbone
    owner = backbone.get("tokenizer") or backbone
    owner.in_channels = len(found.bands)
    cfg.model.decode_head.num_classes = len(found.classes)


def set_statistics(
    cfg: Config, mean: Sequence[float], std: Sequence[float], counts: np.ndarray
) -> None:
    """Write band statistics and class weights of the training part into a config."""
    for part in ("train", "val", "test"):
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


def _fit_pipelines(cfg: Config, found: LabelledImages) -> None:
    """Leave out what only pictures of three 8-bit bands can bear."""
    with open_image(found.images[0]) as src:
        is_picture = len(found.bands) == 3 and set(src.dtypes) == {"uint8"}
    if is_picture:
        return
    for step in cfg.train_dataloader.dataset.pipeline:
        if "transforms" in step:
            step.transforms = [t for t in step.transforms if t.get("type") not in _FOR_RGB]


def _fit_length(cfg: Config, batch_size: int) -> None:
    """Let an epoch be as many chips as cover the training part, or a few batches."""
    cfg.train_dataloader.dataset.pop("length", None)
    chips = len(_build(cfg, "train", mode="random"))
    cfg.train_dataloader.dataset.length = max(chips, _LEAST_BATCHES * batch_size)


def _fit_schedule(cfg: Config, epochs: int) -> None:
    """Stretch the base's schedule to another number of epochs."""
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


def _fit_run(cfg: Config, out: Path, seed: int, pretrained: Any) -> None:
    cfg.work_dir = str(out)
    cfg.randomness = dict(cfg.get("randomness") or {}, seed=seed)
    cfg.load_from, cfg.resume = None, False
    if pretrained is not None:
        if not Path(pretrained).suffix:
            pretrained = find_model(pretrained)
        load_checkpoint(pretrained)  # a bad one shows before the data are read
        cfg.load_from = str(pretrained)
    # Nothing is chosen by the part held out; the last two epochs stay, to go on from.
    cfg.default_hooks.checkpoint.update(save_best=None, interval=1, max_keep_ckpts=2)
    cfg.default_hooks.checkpoint.pop("rule", None)
    set_amp(cfg, asked=False)
    # What only built the base's parts would tell a reader of the new config of other data.
    for key in set(cfg) - RUNNER_KEYS | {"data_preprocessor"}:
        cfg.pop(key, None)


def _merge(cfg: Config, options: Mapping[str, Any]) -> None:
    try:
        cfg.merge_from_dict(dict(options))
    except Exception as error:
        raise ConfigError(
            f"cfg_options {dict(options)} cannot be merged",
            expected="dotted keys of the config, such as optim_wrapper.optimizer.lr",
            found=f"{type(error).__name__}: {error}",
            remedy="name keys as they stand in config.py of the work dir",
        ) from error


# ---------------------------------------------------------------------------------- the data
def _build(cfg: Config, part: str, **options: Any) -> Any:
    """Build a part's data set with other options."""
    chosen = cfg[f"{part}_dataloader"].dataset.to_dict() | options
    with config_errors(f"{part}_dataloader.dataset"):
        return DATASETS.build(chosen)


def cover_of(cfg: Config, part: str, **options: Any) -> Any:
    """Build a part's data set as a deterministic cover in model units, without augmentation.

    Args:
        cfg: The config.
        part: ``"train"``, ``"val"`` or ``"test"``.
        **options: Further options of the data set.
    """
    usual = dict(mode="cover", test_mode=True, pipeline=[dict(type="hook.PackSegSample")])
    return _build(cfg, part, **(usual | options))


def _measure(
    cfg: Config, found: LabelledImages, progress: bool
) -> tuple[dict[str, list[float]], np.ndarray]:
    """Take band statistics and class counts of the training part; look at the classes of both.

    Raises:
        DataError: The training part shows fewer than two classes, or the other none.
    """
    statistics = BandStatistics()
    counts = {part: np.zeros(len(found.classes), np.int64) for part in ("train", "val")}
    for part, total in counts.items():
        dataset = cover_of(cfg, part, pipeline=[])
        if len(dataset) > _MOST_CHIPS:
            dataset.get_subset_(np.linspace(0, len(dataset) - 1, _MOST_CHIPS).astype(int).tolist())
        bar = progress_bar(
            samples(dataset),
            total=len(dataset),
            desc=f"{part} data",
            unit="chip",
            leave=False,
            delay=2,
            show=progress,
        )
        for sample in bar:
            inside = inside_scene(sample)
            labels = sample["gt_seg_map"]
            known = labels[labels < len(total)]
            total += np.bincount(known, minlength=len(total))
            if part == "train":
                statistics.update(np.atleast_3d(sample["img"])[inside], sample["valid"][inside])
    seen = np.flatnonzero(counts["train"])
    if len(seen) < 2 or not counts["val"].any():
        shown = {
            part: {found.classes[k]: int(n) for k, n in enumerate(total)}
            for part, total in counts.items()
        }
        raise DataError(
            "the training part shows fewer than two classes"
            if len(seen) < 2
            else "the part held out has no label",
            expected=f"labelled pixels of {', '.join(found.classes)} in both parts",
            found="; ".join(f"{part}: {numbers}" for part, numbers in shown.items()),
            remedy="label more, name what lies between polygons with background=, or choose the "
            "part held out with val=",
        )
    for part, total in counts.items():
        absent = [found.classes[k] for k in np.flatnonzero(total == 0)]
        if absent:
            warnings.warn(
                f"no pixel of {', '.join(absent)} in the {part} part ({found.how}); val= chooses "
                "what is held out",
                stacklevel=3,
            )
    result = statistics.result()
    return (
        {
            "mean": [float(f"{value:.6g}") for value in result["mean"]],
            # A band that never changes says nothing; it must not divide by zero.
            "std": [float(f"{value:.6g}") or 1.0 for value in result["std"]],
        },
        counts["train"],
    )


# ---------------------------------------------------------------------------------- the run
def run_training(cfg: Config, progress: bool = True, device: str | None = None) -> None:
    """Run a config's training behind one progress bar; the log goes to its file.

    Args:
        cfg: The config, with ``work_dir``.
        progress: Show the bar.
        device: Where it runs; None takes a GPU where there is one.

    Raises:
        ConfigError: A part of the config cannot be built, does not fit the data, or the device is
            not there.
        DataError: The data do not fit the config.
    """
    if device is not None:
        check_device(device)
    with use_device(device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"mmcv|mmseg|mmengine|timm")
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.optim")
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning)
        with contextlib.redirect_stdout(io.StringIO()):  # what is said before there is a log
            runner = build_runner(cfg, QuietRunner)
        runner.register_hook(TrainingProgressHook(progress))
        runner.train()


def read_curves(work_dir: str | os.PathLike) -> pd.DataFrame:
    """Read the curves of a training by epochs, those of its interrupted runs included.

    Args:
        work_dir: Folder of the training.

    Returns:
        Indexed by ``epoch`` from 1: ``loss`` and ``lr`` (means of the logged steps), and the
        metrics of epochs that were validated.
    """
    steps: dict[int, dict[str, list[float]]] = {}
    scores: dict[int, dict[str, float]] = {}
    for file in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        fresh: dict[int, dict[str, list[float]]] = {}
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if "loss" in entry and "epoch" in entry:
                row = fresh.setdefault(int(entry["epoch"]), {})
                for key in ("loss", "lr"):
                    row.setdefault(key, []).append(entry[key])
            elif "step" in entry:
                timing = ("step", "data_time", "time")
                scores[int(entry["step"])] = {k: v for k, v in entry.items() if k not in timing}
        steps |= fresh  # an epoch that was cut off was run again
    rows = {
        epoch: {key: float(np.mean(values)) for key, values in row.items()}
        for epoch, row in steps.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table = table.join(pd.DataFrame.from_dict(scores, orient="index"), how="outer")
    return table.sort_index().rename_axis("epoch")


def _last_metrics(curves: pd.DataFrame) -> dict[str, float]:
    """The metrics of the last validation, which is that of the last epoch."""
    columns = [name for name in curves if name not in ("loss", "lr")]
    rows = curves[columns].dropna(how="all")
    return {} if rows.empty else {k: float(v) for k, v in rows.iloc[-1].dropna().items()}
