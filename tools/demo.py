"""Train, evaluate, map and picture in one go: what ``make demo`` runs.

Without ``--data`` the embedded scene is generated and used. With ``--data FOLDER`` the same happens
on a folder of the user's own::

    FOLDER/images/*.tif      GeoTIFFs with the same bands
    FOLDER/masks/*.tif       class indexes, one mask per image (same name, or same place);
                             or one vector file whose features are the second class
    FOLDER/classes.txt       optional: one class per line, ``name`` or ``name #rrggbb``
    FOLDER/splits/{train,val,test}.txt    optional: names of images

Class names come from ``classes.txt``, else from the mask's category names or its tag ``classes``,
else from the values found; colours from ``classes.txt``, else from the mask's colour table. Bands
are those of the files; statistics are computed on the training part. Without ``splits/``, three or
more images are divided along the longer axis of the region (60 / 15 / 25 %), fewer by area.

The embedded demo ends with exit status 1 unless the model's mIoU on the part it never saw is 20
points above a majority-class map and not below a per-pixel nearest-centroid classifier. On a user's
folder the same comparison is printed; it decides the exit status only with ``--strict``.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
import pyogrio
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import transform_bounds
from tqdm import tqdm

from hook.errors import ConfigError, DataError, reports_errors

IGNORE = 255
LEAD = 20.0  # points of mIoU above the majority-class map
TITLES = {"HookTokenizer": "HOOK", "PatchEmbedTokenizer": "Patch embedding"}
VIEW = 1536  # largest side of the overview's pictures in pixels
TIFF = (".tif", ".tiff")
VECTORS = (".gpkg", ".geojson", ".shp", ".fgb")


@dataclass
class Folder:
    """What a user's folder holds, in the terms of :class:`hook.datasets.GeoTIFFFolder`."""

    root: Path
    images: list[Path]
    masks: list[Path]
    bands: list[str | int]
    classes: list[str]
    palette: list[list[int]]
    options: dict = field(default_factory=dict)
    splits: dict[str, dict] = field(default_factory=dict)
    how: str = ""


# ------------------------------------------------------------------------------- the user's folder


def inspect_folder(root: Path) -> Folder:
    """Find images, masks, classes and a split.

    Raises:
        DataError: The folder is not laid out as described above, or its files contradict it.
    """
    for name in ("images", "masks"):
        if not (root / name).is_dir():
            raise DataError(
                f"{root / name} does not exist",
                expected=f"GeoTIFFs in {root / 'images'} and their masks in {root / 'masks'}",
                found=_listing(root),
                remedy="arrange the files so, or correct --data (make demo DATA=<folder>)",
            )
    images = _files(root / "images", TIFF)
    masks = _files(root / "masks", TIFF + VECTORS)
    bands = _bands_of(images[0])
    classes, palette, options = _classes_of(root, masks)
    folder = Folder(root, images, masks, bands, classes, palette, options)
    _split(folder)
    return folder


def _listing(root: Path) -> str:
    if not root.is_dir():
        return "no such folder"
    names = sorted(p.name for p in root.iterdir())
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") or "an empty folder"


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    if not found:
        raise DataError(
            f"{folder} holds no file that can be used",
            expected="files ending in " + ", ".join(suffixes),
            found=_listing(folder),
            remedy="put the files there, or convert them to GeoTIFF",
        )
    return found


def _open(path: Path) -> rasterio.DatasetReader:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except rasterio.errors.RasterioError as error:
        raise DataError(
            f"{path} cannot be read",
            expected="a GeoTIFF",
            found=" ".join(str(error).split()),
            remedy="restore the file, or take it out of the folder",
        ) from error


def _bands_of(path: Path) -> list[str | int]:
    with _open(path) as src:
        alpha = rasterio.enums.ColorInterp.alpha
        kept = [k for k in range(src.count) if src.colorinterp[k] != alpha]
        names = [src.descriptions[k] for k in kept]
    if all(names) and len({n.casefold() for n in names}) == len(names):
        return names
    return [k + 1 for k in kept]


def _classes_of(root: Path, masks: list[Path]) -> tuple[list[str], list[list[int]], dict]:
    from hook.drawing import distinct_palette

    names, colours = _read_classes_file(root / "classes.txt")
    if masks[0].suffix.lower() in VECTORS:
        return _classes_of_vectors(masks, names, colours)
    rasters = [p for p in masks if p.suffix.lower() in TIFF]
    values = _mask_values(rasters)
    if names is None:
        names, colours = _names_in_mask(rasters[0])
    options: dict = {}
    if set(values) <= {0, 255} and 255 in values and (names is None or len(names) == 2):
        # The habit of binary masks: 255 is the object, not "no label".
        options = dict(label_map={0: 0, 255: 1}, mask_nodata=None)
        names = names or ["background", "object"]
    elif names is None:
        highest = max((v for v in values if v != IGNORE), default=0)
        if not 1 <= highest < 64:
            raise DataError(
                f"{rasters[0].parent}: the masks' values are no class indexes",
                expected=f"0 to the number of classes less one (at most 63), {IGNORE} for no label",
                found=", ".join(map(str, sorted(values)[:12])),
                remedy=f"relabel the masks, or name the classes in {root / 'classes.txt'}",
            )
        names = [f"class {k}" for k in range(highest + 1)]
    else:
        wrong = {v: p for v, p in values.items() if v != IGNORE and not 0 <= v < len(names)}
        if wrong:
            value, path = next(iter(wrong.items()))
            raise DataError(
                f"{path}: label outside the range",
                expected=f"0 to {len(names) - 1} ({', '.join(names)}), or {IGNORE} for no label",
                found=value,
                remedy=f"correct the mask, or name all classes in {root / 'classes.txt'}",
            )
    if not any(colours):
        colours = _colours_in_mask(rasters[0], len(names))
    spare = distinct_palette(len(names))
    palette = [list(c or spare[k]) for k, c in enumerate(colours)]
    return names, palette, options


def _classes_of_vectors(masks: list[Path], names, colours) -> tuple[list, list, dict]:
    from hook.drawing import distinct_palette

    if names is not None and len(names) != 2:
        raise DataError(
            f"{masks[0]}: vector masks tell two classes apart",
            expected="two names in classes.txt: outside and inside of the features",
            found=", ".join(names),
            remedy="correct classes.txt, or rasterise the classes into GeoTIFF masks",
        )
    try:
        pyogrio.read_info(masks[0])
    except pyogrio.errors.DataSourceError as error:
        raise DataError(
            f"{masks[0]} cannot be read",
            expected="a vector file",
            found=" ".join(str(error).split()),
            remedy="restore the file, or take it out of the folder",
        ) from error
    names = names or ["background", "object"]
    spare = distinct_palette(2)
    colours = colours or [None, None]
    return names, [list(c or spare[k]) for k, c in enumerate(colours)], {}


def _read_classes_file(path: Path) -> tuple[list[str] | None, list]:
    if not path.is_file():
        return None, []
    names, colours = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text", expected="UTF-8", found=str(error)) from error
    for line in filter(None, map(str.strip, lines)):
        name, mark, code = line.rpartition(" #")
        if mark and len(code) == 6 and all(c in "0123456789abcdefABCDEF" for c in code):
            names.append(name.strip())
            colours.append([int(code[k : k + 2], 16) for k in (0, 2, 4)])
        else:
            names.append(line)
            colours.append(None)
    heads = [name.partition(" ")[0].strip(":,;") for name in names]
    if heads == [str(k) for k in range(len(names))]:  # "0 background", "1 building"
        names = [name.partition(" ")[2].strip() or name for name in names]
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(
            f"{path} does not name the classes",
            expected="two or more different names, one per line",
            found=", ".join(names) or "no name",
            remedy="correct the file",
        )
    return names, colours


def _mask_values(masks: list[Path]) -> dict[int, Path]:
    """Find which labels occur, and a file for each."""
    values: dict[int, Path] = {}
    for path in tqdm(masks, desc="masks", unit="file", disable=None, leave=False, delay=2):
        with _open(path) as src:
            if np.dtype(src.dtypes[0]).kind not in "iu" or src.count != 1:
                raise DataError(
                    f"{path} is no mask",
                    expected="one band of integers",
                    found=f"{src.count} bands of {src.dtypes[0]}",
                    remedy="convert it, or take it out of masks/",
                )
            try:
                for _, window in src.block_windows(1):
                    for value in np.unique(src.read(1, window=window)).tolist():
                        if value != src.nodata or value == 255:
                            values.setdefault(value, path)
            except rasterio.errors.RasterioError as error:
                raise DataError(
                    f"{path} is cut off or damaged",
                    expected="a complete GeoTIFF",
                    found=" ".join(str(error).split()),
                    remedy="copy or download the file again",
                ) from error
    return values


def _names_in_mask(path: Path) -> tuple[list[str] | None, list]:
    from hook.scenes.styles import read_category_names

    names = read_category_names(path)
    if not names:
        with _open(path) as src:
            tag = next((v for k, v in src.tags().items() if k.lower() == "classes"), "")
        names = [n.strip() for n in tag.split(",") if n.strip()]
    return (list(names), []) if len(names or ()) >= 2 else (None, [])


def _colours_in_mask(path: Path, count: int) -> list:
    with _open(path) as src:
        try:
            table = src.colormap(1)
        except ValueError:
            return [None] * count
    return [list(table[k][:3]) if k in table else None for k in range(count)]


def _split(folder: Folder) -> None:
    """Divide the images into train, val and test, so that neighbours stay together."""
    names = [p.relative_to(folder.root / "images").as_posix() for p in folder.images]
    lists = {s: folder.root / "splits" / f"{s}.txt" for s in ("train", "val", "test")}
    present = [s for s, p in lists.items() if p.is_file()]
    if present:
        if len(present) < 3:
            raise DataError(
                f"{folder.root / 'splits'} is not complete",
                expected="train.txt, val.txt and test.txt",
                found=", ".join(f"{s}.txt" for s in present),
                remedy="add the missing lists, or remove the folder to split by place",
            )
        folder.splits = {s: dict(split=str(p)) for s, p in lists.items()}
        folder.how = "lists of the folder"
        return
    if len(names) >= 3:
        centres = np.array([_centre(p, folder.masks) for p in folder.images])
        axis = int(np.ptp(centres, axis=0).argmax())
        order = [names[k] for k in np.lexsort((centres[:, 1 - axis], centres[:, axis]))]
        n_test = max(1, round(0.25 * len(order)))
        n_val = max(1, round(0.15 * len(order)))
        n_train = len(order) - n_val - n_test
        parts = (order[:n_train], order[n_train : n_train + n_val], order[n_train + n_val :])
        folder.splits = {s: dict(split=part) for s, part in zip(lists, parts, strict=True)}
        counts = ", ".join(f"{len(part)} {s}" for s, part in zip(lists, parts, strict=True))
        folder.how = f"by place: {counts} images"
        return
    by_size = sorted(folder.images, key=lambda p: -_area(p))
    shares = (0.58, 0.70, 1.0) if len(names) == 1 else (0.85, 1.0)
    first = _strips(by_size[0], folder.masks, shares)
    only = dict(images=[str(by_size[0])])
    folder.splits = {s: dict(only, split=b) for s, b in zip(lists, first, strict=False)}
    if len(names) == 2:
        folder.splits["test"] = dict(images=[str(by_size[1])], split=None)
    folder.how = f"by area: strips of {by_size[0].name}"


def _bounds(path: Path, masks: list[Path]) -> tuple[tuple[float, float, float, float], str]:
    """Bounds and CRS (WKT) of an image, or of its mask where only that is georeferenced."""
    for source in (path, *(m for m in masks if m.stem == path.stem and m.suffix in TIFF)):
        with _open(source) as src:
            if src.crs is not None:
                return tuple(src.bounds), src.crs.to_wkt()
    raise DataError(
        f"{path} is not georeferenced",
        expected="a CRS and a transform, there or in the mask of its name",
        found="no CRS",
        remedy="write them with `rio edit-info --crs ... --transform ...`",
    )


def _centre(path: Path, masks: list[Path]) -> tuple[float, float]:
    bounds, crs = _bounds(path, masks)
    west, south, east, north = transform_bounds(crs, "EPSG:4326", *bounds)
    return (west + east) / 2 * np.cos(np.radians((south + north) / 2)), (south + north) / 2


def _area(path: Path) -> int:
    with _open(path) as src:
        return src.width * src.height


def _strips(path: Path, masks: list[Path], upto: tuple[float, ...]) -> list[dict]:
    """Cut an image along its longer side at shares of it."""
    (left, bottom, right, top), crs = _bounds(path, masks)
    with _open(path) as src:
        wide = src.width >= src.height
    strips, start = [], 0.0
    for end in upto:
        if wide:
            box = (left + start * (right - left), bottom, left + end * (right - left), top)
        else:
            box = (left, top - end * (top - bottom), right, top - start * (top - bottom))
        strips.append(dict(bounds=box, crs=crs))
        start = end
    return strips


# --------------------------------------------------------------------------------------- the config


def fit_config_to_folder(cfg, folder: Folder) -> None:
    """Replace the demo scene in a config by a user's folder; statistics come later."""
    meta = dict(
        classes=tuple(folder.classes),
        palette=folder.palette,
        bands=tuple(folder.bands),
        scale=1.0,
        offset=0.0,
    )
    for split, options in folder.splits.items():
        dataset = cfg[f"{split}_dataloader"].dataset
        dataset.metainfo = meta
        dataset.data_root = ""
        dataset.images = options.get("images", str(folder.root / "images"))
        dataset.masks = str(folder.root / "masks")
        dataset.split = options["split"]
        dataset.grid = "image"
        for key, value in folder.options.items():
            dataset[key] = value
    cfg.model.backbone.tokenizer.in_channels = len(folder.bands)
    cfg.model.decode_head.num_classes = len(folder.classes)


def set_statistics(cfg, mean: list[float], std: list[float], counts: np.ndarray) -> None:
    """Write band statistics and class weights of the training part into the config."""
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"].dataset.metainfo.update(mean=mean, std=std)
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


def cover_of(cfg, part: str, **options):
    """Build a split's dataset as a deterministic cover in model units, without augmentation."""
    from hook.registry import DATASETS

    chosen = cfg[f"{part}_dataloader"].dataset.to_dict()
    pipeline = [dict(type="hook.PackSegSample")]
    chosen.update(dict(mode="cover", test_mode=True, pipeline=pipeline) | options)
    return DATASETS.build(chosen)


def chip_arrays(sample: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (C, H, W), labels (H, W) and validity (H, W) of a packed sample."""
    labels = sample["data_samples"].gt_sem_seg.data[0].numpy()
    valid = sample["data_samples"].valid_mask.data[0].numpy().astype(bool)
    return sample["inputs"].numpy(), labels, valid


# ------------------------------------------------------------------------------------------ the run


def fit_baselines(cfg):
    """Fit both baselines on the training part in one pass."""
    from hook.evaluation.baselines import MajorityClass, NearestCentroid

    dataset = cover_of(cfg, "train")
    count, bands = cfg.model.decode_head.num_classes, cfg.model.backbone.tokenizer.in_channels
    majority, centroid = MajorityClass(count), NearestCentroid(count, bands)
    for sample in tqdm(dataset, desc="training data", unit="chip", disable=None, leave=False):
        image, labels, valid = chip_arrays(sample)
        centroid.partial_fit(image, labels, valid)
        majority.partial_fit(np.where(valid, labels, IGNORE))
    if np.count_nonzero(majority.counts) < 2:
        raise DataError(
            "the training part shows fewer than two classes",
            expected=f"pixels of {', '.join(cfg.train_dataloader.dataset.metainfo['classes'])}",
            found=dict(zip(range(count), majority.counts.tolist(), strict=True)),
            remedy="put more labelled images into the folder, or name the split in splits/",
        )
    return majority, centroid


def train(cfg, folder: Path) -> Path:
    """Train a config in ``folder`` and return its best checkpoint by the validation part."""
    from hook.engine.runner import config_errors, setup_environment

    for stale in (*folder.glob("*.pth"), folder / "last_checkpoint"):
        stale.unlink(missing_ok=True)
    cfg.work_dir = str(folder)
    setup_environment()
    with config_errors("a part"):
        runner = _quiet_runner().from_cfg(cfg)
    runner.register_hook(_progress_hook(cfg.train_cfg.max_iters))
    runner.train()
    best = sorted(folder.glob("best_*.pth"), key=lambda p: p.stat().st_mtime)
    if not best:
        raise ConfigError(
            "the training left no best checkpoint",
            expected="default_hooks.checkpoint with save_best='mIoU', and a validation",
            found=", ".join(p.name for p in folder.iterdir()),
            remedy="start from configs/hook/demo_hook.py",
        )
    return best[-1]


def _quiet_runner():
    import logging

    from hook.engine.runner import HookRunner

    class QuietRunner(HookRunner):
        """A runner whose log goes to its file; only errors reach the terminal."""

        def build_logger(self, *args, **kwargs):
            logger = super().build_logger(*args, **kwargs)
            for handler in logger.handlers:
                if type(handler) is logging.StreamHandler:
                    handler.setLevel(logging.ERROR)
            return logger

    return QuietRunner


def _progress_hook(total: int):
    from mmengine.hooks import Hook

    class ProgressHook(Hook):
        """One moving line on a terminal, ten lines elsewhere."""

        priority = "VERY_LOW"

        def before_train(self, runner) -> None:
            self.start, self.score = time.monotonic(), None
            self.bar = tqdm(total=total, unit="it", disable=None, dynamic_ncols=True)

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            done = runner.iter + 1
            notes = {"loss": f"{float(outputs['loss'].detach()):.3f}"}
            if self.score is not None:
                notes["validation mIoU"] = f"{self.score:.1f}"
            self.bar.set_postfix(notes, refresh=False)
            self.bar.update()
            if self.bar.disable and (done % max(total // 10, 1) == 0 or done == total):
                spent = time.monotonic() - self.start
                left = spent / done * (total - done)
                note = ", ".join(f"{k} {v}" for k, v in notes.items())
                say(f"      {done}/{total}  {spent:.0f} s, {left:.0f} s to go, {note}")

        def after_val_epoch(self, runner, metrics=None) -> None:
            self.score = (metrics or {}).get("mIoU", self.score)

        def after_train(self, runner) -> None:
            self.bar.close()

    return ProgressHook()


def evaluate(cfg, model, majority, centroid) -> dict[str, dict]:
    """Score model and baselines on the test part, chip by chip, with one confusion matrix each."""
    import torch

    from hook.evaluation.baselines import confusion_matrix, segmentation_scores

    dataset = cover_of(cfg, "test")
    count = cfg.model.decode_head.num_classes
    matrices = {
        name: np.zeros((count, count), np.int64)
        for name in ("model", "nearest_centroid", "majority_class")
    }
    size = cfg.test_dataloader.batch_size
    starts = range(0, len(dataset), size)
    for start in tqdm(starts, desc="test", unit="batch", disable=None, leave=False):
        samples = [dataset[k] for k in range(start, min(start + size, len(dataset)))]
        batch = {key: [s[key] for s in samples] for key in ("inputs", "data_samples")}
        with torch.no_grad():
            results = model.test_step(batch)
        for sample, result in zip(samples, results, strict=True):
            image, labels, valid = chip_arrays(sample)
            truth = np.where(valid, labels, IGNORE)
            answers = {
                "model": result.pred_sem_seg.data[0].numpy(),
                "nearest_centroid": centroid.predict(image),
                "majority_class": majority.predict(image),
            }
            for name, answer in answers.items():
                matrices[name] += confusion_matrix(truth, answer, count)
    if not matrices["model"].any():
        raise DataError(
            "the test part has no labelled pixel",
            expected="labels in the images set aside for the test",
            found="none",
            remedy="name the split in splits/train.txt, val.txt and test.txt",
        )
    return {
        name: {**segmentation_scores(m), "confusion_matrix": m.tolist()}
        for name, m in matrices.items()
    }


def table(scores: dict[str, dict], classes: list[str], title: str) -> str:
    """Format the scores of model and baselines as text."""
    rows = [("", "mIoU", "pixel acc.", *classes)]
    labels = dict(
        model=title,
        nearest_centroid="nearest centroid, per pixel",
        majority_class="majority class everywhere",
    )
    for name, label in labels.items():
        s = scores[name]
        cells = [s["mIoU"], s["aAcc"], *s["IoU"]]
        rows.append((label, *["-" if np.isnan(v) else f"{v:.1f}" for v in cells]))
    widths = [max(len(r[k]) for r in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if k == 0 else c.rjust(w)
            for k, (c, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:]])


@dataclass
class View:
    """The part of a scene that the overview shows."""

    image: np.ndarray
    valid: np.ndarray
    truth: np.ndarray
    tokens: np.ndarray
    window: tuple[int, int, int, int]
    frame: tuple[int, int, int, int] | None
    metres: float | None


def look_at(cfg, model, test_set, scene: int) -> View:
    """Gather image, truth and tokens of a scene around its test part."""
    import torch

    from hook.tokenizers import token_map

    info = test_set.scenes[scene]
    row, col, height, width = test_set.sampling_windows[scene]
    full_h, full_w = info.grid.height, info.grid.width
    h, w = min(full_h, VIEW), min(full_w, VIEW)
    top = int(np.clip(row + height / 2 - h / 2, 0, full_h - h))
    left = int(np.clip(col + width / 2 - w / 2, 0, full_w - w))
    a, _, c, _, e, f = info.grid.transform
    xs, ys = sorted((c + a * left, c + a * (left + w))), sorted((f + e * top, f + e * (top + h)))
    whole = (h, w) == (full_h, full_w)
    area = None if whole else dict(bounds=(xs[0], ys[0], xs[1], ys[1]), crs=info.grid.crs)
    options = cfg.test_dataloader.dataset
    masks = str(Path(options.get("data_root") or "", options.masks))
    dataset = cover_of(cfg, "test", images=[info.path], masks=masks, data_root="", split=area)
    top, left, h, w = dataset.sampling_windows[0]
    view = View(
        np.zeros((cfg.model.backbone.tokenizer.in_channels, h, w), np.float32),
        np.zeros((h, w), bool),
        np.full((h, w), IGNORE, np.int64),
        np.full((h, w), -1, np.int64),
        (top, left, h, w),
        (row - top, col - left, height, width) if (height, width) != (full_h, full_w) else None,
        _metres_per_pixel(info),
    )
    size = cfg.test_dataloader.batch_size
    starts = range(0, len(dataset), size)
    for start in tqdm(starts, desc="tokens", unit="batch", disable=None, leave=False):
        samples = [dataset[k] for k in range(start, min(start + size, len(dataset)))]
        with torch.no_grad():
            batch = {"inputs": [s["inputs"] for s in samples]}
            inputs = model.data_preprocessor(batch, False)["inputs"]
            maps = token_map(model.backbone.tokenizer(inputs).assignment, inputs.shape[-2:])
        for sample, tokens in zip(samples, maps.numpy(), strict=True):
            _paste(view, sample, tokens)
    return view


def _paste(view: View, sample: dict, tokens: np.ndarray) -> None:
    """Put a chip where it lies in the view; what reaches beyond is padding."""
    image, labels, valid = chip_arrays(sample)
    top, left, h, w = view.window
    row, col = sample["data_samples"].geo["window"][:2]
    y, x = row - top, col - left
    rows, cols = slice(y, min(y + labels.shape[0], h)), slice(x, min(x + labels.shape[1], w))
    part = slice(0, rows.stop - y), slice(0, cols.stop - x)
    view.image[:, rows, cols] = image[:, part[0], part[1]]
    view.valid[rows, cols] = valid[part]
    view.truth[rows, cols] = np.where(valid, labels, IGNORE)[part]
    view.tokens[rows, cols] = np.where(valid, tokens, -1)[part]


def _metres_per_pixel(info) -> float | None:
    crs = rasterio.crs.CRS.from_wkt(info.grid.crs)
    if crs.is_projected:
        return info.grid.res[0] * crs.linear_units_factor[1]
    if crs.is_geographic:
        _, south, _, north = info.grid.bounds
        return info.grid.res[0] * 111_320 * float(np.cos(np.radians((south + north) / 2)))
    return None


def draw(path: Path, view: View, map_path: Path, meta: dict, scores: dict, texts: dict) -> None:
    """Draw the overview."""
    from hook.apis.pictures import (
        Panel,
        draw_overview,
        render_labels,
        render_tokens,
        stretch_to_rgb,
    )

    top, left, h, w = view.window
    with rasterio.open(map_path) as src:
        prediction = src.read(1, window=rasterio.windows.Window(left, top, w, h))
    rgb = stretch_to_rgb(view.image, meta["bands"], view.valid)
    prediction = np.where(view.valid, prediction, IGNORE)
    note = f"mIoU {scores['model']['mIoU']:.1f} % on the test part"
    framed = dict(frame=view.frame, frame_label="test part, never trained on" if view.frame else "")
    # Seeds are a few pixels wide: borders would hide the regions.
    tokens = render_tokens(view.tokens, rgb, alpha=0.75, borders=False)
    panels = [
        Panel("Image", rgb, **framed),
        Panel("Truth", render_labels(view.truth, meta["palette"])),
        Panel("Prediction", render_labels(prediction, meta["palette"]), note, **framed),
        Panel("Token map", tokens, texts["tokens"]),
    ]
    draw_overview(
        path,
        panels,
        meta["classes"],
        meta["palette"],
        view.metres,
        texts["title"],
        texts["subtitle"],
        texts["attribution"],
    )


# ------------------------------------------------------------------------------------- the command


def say(text: str) -> None:
    """Print a line at once, so that logs stay in order."""
    print(text, flush=True)


def georeferenced(scene, out: Path) -> Path:
    """The scene's file, or a VRT beside the results that adds the georeference of its mask."""
    path = Path(scene.path)
    with _open(path) as src:
        if src.crs is not None:
            return path
    vrt = out / "scene.vrt"
    vrt.unlink(missing_ok=True)
    rasterio.shutil.copy(str(path.resolve()), str(vrt), driver="VRT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(vrt, "r+") as dst:
            dst.crs = rasterio.crs.CRS.from_wkt(scene.grid.crs)
            dst.transform = scene.grid.affine
    return vrt


def _make_scene(out_dir: Path, seed: int):
    """Call the generator, which lies beside the package and not in it."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "make_demo_scene", REPO / "data" / "make_demo_scene.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.make_demo_scene(out_dir, seed=seed)


def _plain(value):
    """Replace what JSON has no word for: the IoU of a class that never occurs becomes null."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


def _load_stack() -> None:
    """Import the heavy libraries, keeping their remarks about optional parts off the terminal."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mmcv|mmseg|mmengine|timm")
    warnings.filterwarnings("ignore", category=PendingDeprecationWarning)
    with contextlib.redirect_stdout(io.StringIO()):
        import mmseg.datasets
        import mmseg.models  # noqa: F401


def verdict(missed: list[str], required: bool) -> tuple[int, list[str]]:
    """Exit status and last lines for the bars that were missed."""
    if not missed:
        return 0, [
            f"passed: {LEAD:g} points above the majority class, not below the nearest centroid"
        ]
    word = "failed" if required else "warning"
    return int(required), [f"{word}: {sentence}" for sentence in missed]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from hook.engine.runner import add_config_options

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with images/ and masks/ of your own")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"))
    parser.add_argument("--config", default=str(REPO / "configs" / "hook" / "demo_hook.py"))
    parser.add_argument(
        "--scene-dir", type=Path, default=REPO / "data" / "demo", help="where the demo scene goes"
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 also with --data")
    parser.add_argument("--attribution", default="", help="source of your imagery, for the picture")
    add_config_options(parser)
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    begun = time.monotonic()
    seconds: dict[str, float] = {}
    clock = [begun]

    def lap(name: str) -> None:
        now = time.monotonic()
        seconds[name], clock[0] = round(now - clock[0], 1), now

    embedded = args.data is None
    if embedded:
        say("[1/6] Generating the demo scene")
        _make_scene(args.scene_dir, seed=0)
        folder = None
        say(f"      {args.scene_dir}")
    else:
        say(f"[1/6] Looking at {args.data}")
        folder = inspect_folder(args.data.resolve())
        say(f"      {len(folder.images)} images, bands {', '.join(map(str, folder.bands))}")
        say(f"      classes {', '.join(folder.classes)}; split {folder.how}")
    _load_stack()
    lap("data")

    from mmengine.registry import init_default_scope

    from hook.apis import SceneMapper, load_model
    from hook.engine.runner import load_config
    from hook.evaluation.baselines import check_margins

    cfg = load_config(args.config, args.cfg_options)
    init_default_scope(cfg.get("default_scope", "mmseg"))
    if folder is None:
        for split in ("train", "val", "test"):
            cfg[f"{split}_dataloader"].dataset.data_root = str(args.scene_dir)
    else:
        fit_config_to_folder(cfg, folder)
    out: Path = args.work_dir
    out.mkdir(parents=True, exist_ok=True)

    say("[2/6] Fitting the baselines: majority class, nearest centroid")
    majority, centroid = fit_baselines(cfg)
    if folder is not None:
        set_statistics(cfg, centroid.mean.tolist(), centroid.scale.tolist(), majority.counts)
    lap("baselines")

    kind = cfg.model.backbone.tokenizer.type.rpartition(".")[2]
    name = TITLES.get(kind, kind)
    say(f"[3/6] Training {name}, {cfg.train_cfg.max_iters} iterations; log in {out / 'train'}")
    best = train(cfg, out / "train")
    checkpoint = out / "checkpoint.pth"
    part = out / ".checkpoint.part.pth"
    shutil.copyfile(best, part)
    os.replace(part, checkpoint)
    cfg.dump(str(out / "config.py"))
    lap("training")

    say("[4/6] Evaluating on the part never trained on")
    model = load_model(cfg, checkpoint)
    scores = evaluate(cfg, model, majority, centroid)
    meta = model.dataset_meta
    missed = check_margins(
        *[scores[k]["mIoU"] for k in ("model", "majority_class", "nearest_centroid")], lead=LEAD
    )
    lap("evaluation")

    test_set = cover_of(cfg, "test")
    sizes = [h * w for _, _, h, w in test_set.sampling_windows]
    scene = int(np.argmax(sizes))
    source = georeferenced(test_set.scenes[scene], out)
    say(f"[5/6] Mapping {test_set.scenes[scene].path}")
    report = SceneMapper(model).map(
        source,
        out / "map.tif",
        batch_size=8,
        vectors=out / "regions.gpkg",
        overwrite=True,
    )
    lap("mapping")

    say("[6/6] Drawing the overview")
    count = model.backbone.tokenizer.num_tokens
    shown = "the demo scene" if embedded else Path(test_set.scenes[scene].path).name
    texts = dict(
        title=f"{name} on {shown}",
        subtitle=f"mIoU {scores['model']['mIoU']:.1f} %; nearest centroid "
        f"{scores['nearest_centroid']['mIoU']:.1f} %, majority class "
        f"{scores['majority_class']['mIoU']:.1f} %",
        tokens=f"{count} tokens in each window of {cfg.model.backbone.tokenizer.img_size} pixels",
        attribution="Synthetic scene by data/make_demo_scene.py" if embedded else args.attribution,
    )
    view = look_at(cfg, model, test_set, scene)
    draw(out / "overview.png", view, out / "map.tif", meta, scores, texts)
    lap("overview")

    metrics = dict(
        config=os.path.relpath(args.config, REPO),
        data="demo scene, seed 0" if embedded else str(args.data),
        split="by area: west, middle, east" if embedded else folder.how,
        classes=list(meta["classes"]),
        **scores,
        bar=dict(above_majority_class=LEAD, not_below_nearest_centroid=True, missed=missed),
        passed=not missed,
        iterations=cfg.train_cfg.max_iters,
        map=dict(
            scene=str(test_set.scenes[scene].path), windows=report.windows, pixels=report.pixels
        ),
        seconds=seconds | dict(total=round(time.monotonic() - begun, 1)),
    )
    _write_text(out / "metrics.json", json.dumps(_plain(metrics), indent=2) + "\n")

    say("")
    say(table(scores, meta["classes"], name))
    say("")
    for file in ("overview.png", "map.tif", "regions.gpkg", "metrics.json", "checkpoint.pth"):
        say(f"      {out / file}")
    say(f"      {time.monotonic() - begun:.0f} s in all")
    status, lines = verdict(missed, required=embedded or args.strict)
    for line in lines:
        say(line)
    return status


if __name__ == "__main__":
    sys.exit(main())
