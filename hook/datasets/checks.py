"""Compare a data set with the config before training.

Most failed training runs come from a few mistakes: statistics in different units than the data, an
"unlabelled" label trained as a class, an ignore index that the labels do not use.
:func:`check_dataset` detects them from a few samples and reports all of them at once.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from filecmp import cmp
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset

from hook.datasets.files import some
from hook.datasets.grids import Area
from hook.datasets.seeding import keep_random_state
from hook.datasets.statistics import BandStatistics
from hook.errors import ConfigError, DataError, HookError
from hook.geo.raster import open_raster
from hook.structures import dates_as_rows

# Allowed deviation of sampled data from the normalisation statistics: wide enough for a few dark or
# bright samples with ImageNet statistics, far too narrow for wrong units.
MAX_SHIFT = 8.0  # distance of the means, in standard deviations of the config
MAX_SPREAD = 12.0  # standard deviation of the data divided by the config's
MIN_SPREAD = 0.02
CONFIRM_SAMPLES = 2000  # samples to read before a class is reported as absent
MOST_COMPARED = 20_000  # files of equal size to search for copies: seconds on a local disk


@dataclass(frozen=True)
class Finding:
    """A mismatch between data and config.

    Attributes:
        what: What does not match.
        expected: Value according to the config.
        found: Value in the data.
        remedy: How to correct it.
        in_data: Whether the data are at fault rather than the config.
    """

    what: str
    expected: object
    found: object
    remedy: str
    in_data: bool = False

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, found {self.found}; remedy: {self.remedy}"


@dataclass
class _SampleSummary:
    """Counts and statistics of the sampled data."""

    samples: int = 0
    bands: Counter = field(default_factory=Counter)
    without_pixels: int = 0
    not_finite: int = 0
    constant: int = 0
    statistics: BandStatistics = field(default_factory=BandStatistics)
    labels: Counter = field(default_factory=Counter)
    unlabelled: int = 0
    is_segmentation: bool = False
    errors: list[HookError] = field(default_factory=list)


def check_dataset(
    dataset: Any,
    num_classes: int | None = None,
    ignore_index: int = 255,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    in_channels: int | None = None,
    max_samples: int = 32,
    held_out: bool = False,
) -> list[Finding]:
    """Compare a data set with the model's config.

    Evenly spaced samples are read through the data set's pipeline, so that the model's actual
    inputs are checked. Random states are restored.

    Args:
        dataset: MMEngine dataset that packs ``inputs`` (C, H, W), or (T, C, H, W) of time series,
            and ``data_samples``.
        num_classes: Number of classes of the model; None skips this check.
        ignore_index: Label that the loss ignores.
        mean: Mean per band of the model's preprocessor, in model units, or None.
        std: Standard deviation per band of the model's preprocessor, or None.
        in_channels: Number of input bands of the model; None skips this check.
        max_samples: Number of samples to read.
        held_out: Masks of one class, beside pixels to ignore, are no finding: a small part of a
            scene may have no other.

    Returns:
        All findings; empty if data and config match.

    Raises:
        ConfigError: If ``max_samples`` is not positive.
    """
    if max_samples < 1:
        raise ConfigError(
            "max_samples must be positive",
            expected="1 or more",
            found=max_samples,
            remedy="to skip the check, remove it from custom_hooks",
        )
    meta = dict(getattr(dataset, "metainfo", None) or {})
    findings = list(_check_meta(meta, num_classes, ignore_index, mean, std, in_channels))
    if len(dataset) == 0:
        return [
            *findings,
            Finding("data set", "samples", "none", "check the split list and data_root", True),
        ]
    with keep_random_state():  # pipelines draw; a run must not change because it was checked
        seen = _read_samples(dataset, _spaced_indexes(len(dataset), max_samples))
        findings += _check_errors(seen)
        if seen.samples:
            findings += _check_bands(seen, mean, in_channels)
            findings += _check_values(seen, mean, std)
            if num_classes is not None:
                _search_classes(dataset, seen, ignore_index)
                findings += _check_labels(seen, num_classes, ignore_index, held_out)
                findings += _check_reduced(dataset, seen, num_classes, ignore_index)
    return findings


def check_pair(train: Any, other: Any, name: str = "validation") -> list[Finding]:
    """Compare classes, bands and images of training and evaluation data.

    Args:
        train: Training data set.
        other: Validation or test data set.
        name: Name of the second data set in messages.

    Returns:
        A finding for different classes, for different bands and for images in both data sets.
    """
    findings = []
    metas = [dict(getattr(ds, "metainfo", None) or {}) for ds in (train, other)]
    for key in ("classes", "bands"):
        first, second = (meta.get(key) for meta in metas)
        if first is not None and second is not None and list(first) != list(second):
            findings.append(
                Finding(
                    f"{key} of the {name} data",
                    f"the same as in the training data: {', '.join(map(str, first))}",
                    ", ".join(map(str, second)),
                    "use the same metainfo for both data sets",
                )
            )
    shared = check_shared_images(train, other, name)
    return findings + ([] if shared is None else [shared])


def check_shared_images(train: Any, other: Any, name: str) -> Finding | None:
    """Find images of evaluation data that the model is trained on.

    An image is recognised by its file, under whatever name or link, and a copy by its content. Of
    one file of a :class:`hook.datasets.GeoTIFFFolder`, splits by area may share what lies outside
    the parts of both.

    Args:
        train: Training data set.
        other: Validation or test data set.
        name: Name of the second data set in messages.

    Returns:
        A finding for shared files of a TorchGeo data set. Files of other data sets, whose lists
        the user wrote, and copies are warned of.
    """
    known: dict[Any, list[Image]] = {}
    for image in _images(train):
        known.setdefault(image.file, []).append(image)
    others = _images(other)
    shared = [one for one in others if any(map(one.overlaps, known.get(one.file, ())))]
    remedy = "use lists of the same split"
    if shared and hasattr(other, "source"):
        return Finding(
            f"training and {name} images",
            "no image in both",
            f"{len(shared)} shared, the first: {shared[0].path}",
            remedy,
        )
    apart = [image for image in others if image.file not in known]
    copies = _copies(apart, [images[0] for images in known.values()])
    for what, paths in (("are", [i.path for i in shared]), ("as copies are", copies)):
        if paths:
            warnings.warn(
                f"{len(paths)} {name} images {what} also in the training data, and unless their "
                f"labels are of other parts, the scores are too high: "
                f"{some(dict.fromkeys(paths), 4)}; {remedy}",
                stacklevel=3,
            )
    return None


def raise_findings(findings: Sequence[Finding], where: str) -> None:
    """Raise an error that lists all findings, if there are any.

    Args:
        findings: From :func:`check_dataset`.
        where: Prefix of the message.

    Raises:
        ConfigError: If the config is at fault.
        DataError: If only the data are at fault.
    """
    if not findings:
        return
    error = DataError if all(finding.in_data for finding in findings) else ConfigError
    if len(findings) == 1:
        one = findings[0]
        raise error(
            f"{where}: {one.what}", expected=one.expected, found=one.found, remedy=one.remedy
        )
    lines = "".join(
        f"\n  {number}. {one.what}\n     expected: {one.expected}\n     found: {one.found}"
        f"\n     remedy: {one.remedy}"
        for number, one in enumerate(findings, start=1)
    )
    raise error(f"{where}: data and config do not match in {len(findings)} points{lines}")


def _spaced_indexes(total: int, count: int) -> list[int]:
    return sorted({int(index) for index in np.linspace(0, total - 1, min(total, count))})


def _read_samples(dataset: Any, indexes: Sequence[int]) -> _SampleSummary:
    seen = _SampleSummary()
    for index in indexes:
        try:
            packed = dataset[index]
        except HookError as error:
            seen.errors.append(error)
            continue
        image = dates_as_rows(np.asarray(packed["inputs"], dtype=np.float32))
        sample = packed["data_samples"]
        seen.samples += 1
        seen.bands[image.shape[0]] += 1
        mask = getattr(sample, "valid_mask", None)
        valid = (
            np.ones(image.shape[1:], dtype=bool)
            if mask is None
            else np.asarray(mask.data).astype(bool).reshape(image.shape[1:])
        )
        finite = np.isfinite(image).all(axis=0)
        if not finite[valid].all():
            seen.not_finite += 1
        pixels = image[:, valid & finite]
        if pixels.shape[1] == 0:
            seen.without_pixels += 1
        elif len(seen.bands) == 1:
            seen.constant += bool((pixels == pixels[:, :1]).all())
            seen.statistics.add(pixels.T)
        _count_labels(seen, sample)
    return seen


def _count_labels(seen: _SampleSummary, sample: Any) -> None:
    mask = getattr(sample, "gt_sem_seg", None)
    if mask is not None:
        seen.is_segmentation = True
        values, counts = np.unique(np.asarray(mask.data), return_counts=True)
        seen.labels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return
    label = getattr(sample, "gt_label", None)
    if label is None:
        seen.unlabelled += 1
    else:
        seen.labels[int(label)] += 1


def _check_meta(
    meta: dict,
    num_classes: int | None,
    ignore_index: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    in_channels: int | None,
) -> Iterator[Finding]:
    classes, bands = meta.get("classes"), meta.get("bands")
    if num_classes is not None and classes is not None and len(classes) != num_classes:
        yield Finding(
            "number of classes",
            f"{num_classes} (num_classes of the model)",
            f"{len(classes)} in metainfo['classes']: {', '.join(map(str, classes))}",
            "make num_classes of the head and metainfo['classes'] agree",
        )
    if num_classes is not None and 0 <= ignore_index < num_classes:
        yield Finding(
            "ignore index",
            f"a label outside the classes (not 0 to {num_classes - 1})",
            f"ignore_index={ignore_index}",
            "use 255, and map the ignored label to 255 in the data set",
        )
    if meta.get("ignore_index", ignore_index) != ignore_index:
        yield Finding(
            "ignore index",
            f"{ignore_index} (ignore_index of the model)",
            f"{meta['ignore_index']} (ignore_index of the data)",
            "set both to the same number",
        )
    if in_channels is not None and bands is not None and len(bands) != in_channels:
        yield Finding(
            "number of bands",
            f"{in_channels} (in_channels of the model)",
            f"{len(bands)} in metainfo['bands']: {', '.join(map(str, bands))}",
            "set in_channels of the tokenizer to the number of bands",
        )
    count = in_channels or (len(bands) if bands is not None else None)
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if count is not None and len(values) not in (1, count):
            yield Finding(
                f"{name} of the data preprocessor",
                f"{count} numbers, one per band",
                f"{len(values)}",
                "compute them with tools/dataset_tools/compute_statistics.py",
            )
        stated = meta.get(name)
        if stated is not None and not _same_numbers(stated, values):
            yield Finding(
                f"{name} of the data preprocessor",
                f"metainfo[{name!r}]={_numbers(stated)}",
                _numbers(values),
                "use the same numbers in both: metainfo fills nodata and is saved in the "
                "checkpoint, the preprocessor normalises",
            )


def _same_numbers(first: Any, second: Any) -> bool:
    first, second = np.atleast_1d(np.asarray(first)), np.atleast_1d(np.asarray(second))
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-4, atol=1e-6)


def _numbers(values: Any) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in np.atleast_1d(np.asarray(values))) + "]"


def _check_errors(seen: _SampleSummary) -> Iterator[Finding]:
    reported = set()
    for error in seen.errors:
        key = (error.expected, str(error.found))
        if key in reported or len(reported) == 3:
            continue
        reported.add(key)
        more = f" ({len(seen.errors)} of the samples read fail)" if len(reported) == 1 else ""
        yield Finding(
            error.what + more,
            error.expected,
            error.found,
            error.remedy or "correct the data or the config",
            isinstance(error, DataError),
        )


def _check_bands(
    seen: _SampleSummary, mean: Sequence[float] | None, in_channels: int | None
) -> Iterator[Finding]:
    if len(seen.bands) > 1:
        yield Finding(
            "number of bands",
            "the same in all images",
            " and ".join(f"{count} in {seen.bands[count]} images" for count in sorted(seen.bands)),
            "select bands with metainfo['bands']",
            True,
        )
        return
    (found,) = seen.bands
    if in_channels is not None and found != in_channels:
        yield Finding(
            "bands of the images",
            f"{in_channels} (in_channels of the model)",
            found,
            "select bands with metainfo['bands'], or set in_channels of the tokenizer",
        )
    if mean is not None and len(mean) not in (1, found):
        yield Finding(
            "bands of the images",
            f"{len(mean)} (length of mean in the data preprocessor)",
            found,
            "set one value of mean and std per band",
        )


def _check_values(
    seen: _SampleSummary, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Iterator[Finding]:
    if seen.not_finite:
        yield Finding(
            "pixel values",
            "finite numbers after scaling",
            f"NaN or infinity in valid pixels of {seen.not_finite} of {seen.samples} images",
            "set metainfo['nodata'], and check scale and offset",
            True,
        )
    if seen.without_pixels == seen.samples:
        yield Finding(
            "valid pixels",
            "some in every image",
            f"none in the {seen.samples} images read",
            "correct metainfo['nodata']: it marks all pixels as missing",
        )
    statistics = seen.statistics
    if statistics.count and seen.constant == seen.samples - seen.without_pixels:
        yield Finding(
            "pixel values",
            "images with content",
            "all images read are constant (the first band "
            f"{statistics.minimum[0]:g} to {statistics.maximum[0]:g})",
            "check the files and the scale of the bands",
            True,
        )
    elif statistics.count and mean is not None and std is not None:
        yield from _check_statistics(statistics, np.asarray(mean), np.asarray(std))


def _check_statistics(
    statistics: BandStatistics, mean: np.ndarray, std: np.ndarray
) -> Iterator[Finding]:
    bands = len(statistics.mean)
    if mean.size not in (1, bands) or std.size not in (1, bands) or (std <= 0).any():
        return
    mean, std = np.broadcast_to(mean, bands), np.broadcast_to(std, bands)
    data_mean = statistics.mean
    data_std = np.sqrt(statistics.squares / statistics.count)
    shift, spread = np.abs(data_mean - mean) / std, data_std / std
    wrong = (shift > MAX_SHIFT) | (spread > MAX_SPREAD) | (spread < MIN_SPREAD)
    if not wrong.any():
        return
    low, high = float(statistics.minimum.min()), float(statistics.maximum.max())
    expected = f"values around mean {_numbers(mean)}, std {_numbers(std)}"
    found = (
        f"{low:.4g} to {high:.4g}, mean {_numbers(data_mean)}, std {_numbers(data_std)} "
        f"(band {', '.join(str(i + 1) for i in np.flatnonzero(wrong))} out of range)"
    )
    if low >= 0 and high <= 1.5 and mean.max() > 5:
        remedy = (
            "the data are in 0 to 1 but the statistics in larger units: set metainfo['scale'] "
            "(255 for statistics of 0 to 255), or divide mean and std"
        )
    elif mean.max() <= 1.5 and std.max() <= 1.5 and high > 5:
        remedy = (
            "the statistics are in 0 to 1 but the data in larger units: set metainfo['scale'] "
            "(1/255 for 8-bit data), or multiply mean and std"
        )
    else:
        remedy = (
            "compute mean and std with tools/dataset_tools/compute_statistics.py, and check "
            "metainfo['scale'] and the band order"
        )
    yield Finding("value range", expected, found, remedy)


def _histogram(labels: Counter) -> str:
    total = sum(labels.values())
    return ", ".join(f"{label}: {labels[label] / total:.1%}" for label in sorted(labels)[:20])


def _search_classes(dataset: Any, seen: _SampleSummary, ignore_index: int) -> None:
    """Read more samples if labels are so sparse that the first ones hardly show the classes."""
    if not seen.is_segmentation or seen.errors or not seen.labels.get(ignore_index, 0):
        return
    for index in _spaced_indexes(len(dataset), CONFIRM_SAMPLES):
        if len(seen.labels) > 2:
            return
        seen.labels.update(_read_samples(dataset, [index]).labels)


def _check_labels(
    seen: _SampleSummary, num_classes: int, ignore_index: int, held_out: bool
) -> Iterator[Finding]:
    if not seen.is_segmentation:
        ignore_index = -1
    if seen.unlabelled:
        yield Finding(
            "labels",
            "one for every image",
            f"none for {seen.unlabelled} of {seen.samples} images",
            "train on labelled data only",
            True,
        )
    if not seen.labels:
        return
    shares = _histogram(seen.labels)
    classes = {label for label in seen.labels if label != ignore_index}
    outside = sorted(label for label in classes if not 0 <= label < num_classes)
    expected = f"0 to {num_classes - 1}" + (
        f", or {ignore_index} to ignore a pixel" if seen.is_segmentation else ""
    )
    if not classes:
        yield Finding(
            "labels",
            expected,
            f"only the ignore index {ignore_index}",
            "check reduce_zero_label, label_map and metainfo['nodata']: every pixel is ignored",
        )
    elif outside:
        remedy = "set num_classes of the head and metainfo['classes'] to all classes"
        if seen.is_segmentation:
            remedy = _label_remedy(outside, classes, num_classes)
        yield Finding("labels", expected, shares, remedy)
    elif seen.is_segmentation and len(classes) == 1 and num_classes > 1 and not held_out:
        (only,) = classes
        ignored = seen.labels.get(ignore_index, 0) / sum(seen.labels.values())
        if ignored > 0:
            yield Finding(
                "labels",
                f"{num_classes} classes",
                f"{shares}: only class {only}, the rest is ignored",
                f"if masks store a class as {ignore_index}, set label_map={{{ignore_index}: 1}}; "
                "if they store the background as 0, set reduce_zero_label=False",
            )


def _label_remedy(outside: list[int], classes: set[int], num_classes: int) -> str:
    inside = [label for label in outside if label != 255]
    if not inside:
        return (
            "255 marks pixels to ignore: set ignore_index=255 in the head, or map 255 to its class "
            "with label_map"
        )
    if max(inside) == num_classes and 0 not in classes:
        return "labels start at 1: set reduce_zero_label=True (0 is unlabelled), or use label_map"
    if max(inside) == num_classes:
        return (
            f"there are {num_classes + 1} labels with 0: set reduce_zero_label=True if 0 means "
            "unlabelled, else add a class to num_classes and metainfo['classes']"
        )
    return "map the labels with label_map, or set num_classes and metainfo['classes'] to all labels"


def _check_reduced(
    dataset: Any, seen: _SampleSummary, num_classes: int, ignore_index: int
) -> Iterator[Finding]:
    """Detect a class 0 that ``reduce_zero_label`` treats as unlabelled."""
    last = num_classes - 1
    if not getattr(dataset, "reduce_zero_label", False) or not seen.is_segmentation:
        return
    suspicious = seen.labels.get(ignore_index, 0) and not seen.labels.get(last, 0)
    if not suspicious or seen.errors:
        return
    for index in _spaced_indexes(len(dataset), CONFIRM_SAMPLES):
        seen.labels.update(_read_samples(dataset, [index]).labels)
        if seen.labels.get(last, 0):
            return
    yield Finding(
        "labels",
        f"label {last} in some sample ({num_classes} classes)",
        f"{_histogram(seen.labels)} after reduce_zero_label=True",
        "if the stored 0 is a class, set reduce_zero_label=False",
    )


@dataclass(frozen=True)
class Image:
    """An image of a data set, or a part of it."""

    path: str
    scene: Any = None
    """The part, a :class:`hook.datasets.scene_files.Scene`; None for the whole image."""

    @property
    def file(self) -> Any:
        """Identity of the file, for any of its names; the path if it is not a local file."""
        try:
            found = os.stat(self.path)
        except (OSError, ValueError):
            return self.path
        return found.st_dev, found.st_ino

    def overlaps(self, other: "Image") -> bool:
        """Return whether the parts of the same file overlap by more than two pixels."""
        if self.scene is None or other.scene is None:
            return True
        crs, size = self.scene.grid.crs, min(self.scene.grid.res)
        shared = self.scene.outline(crs).intersection(other.scene.outline(crs))
        return not shared.buffer(-size).is_empty


def _images(dataset: Any) -> list[Image]:
    """Return the image files of a data set, those of wrapped ones included; none if unknown."""
    if isinstance(dataset, ConcatDataset):
        return [image for part in dataset.datasets for image in _images(part)]
    if isinstance(dataset, RepeatDataset | ClassBalancedDataset):
        return _images(dataset.dataset)
    if isinstance(dataset, BaseDataset):
        dataset.full_init()
    if scenes := getattr(dataset, "scenes", None):
        if dataset.mode == "random" or dataset._indices is None:
            windows = zip(scenes, dataset.sampling_windows, strict=True)
            parts = (replace(scene, window=window) for scene, window in windows)
            return [Image(part.path, _labelled_part(part, dataset.labels)) for part in parts]
        chips = map(dataset.get_data_info, range(len(dataset)))
        windows = [(scenes[c["scene"]], (c["row"], c["col"], *dataset.chip_size)) for c in chips]
        return [Image(scene.path, replace(scene, window=window)) for scene, window in windows]
    if not isinstance(dataset, BaseDataset):
        return []
    paths = (dataset.get_data_info(i).get("img_path", "") for i in range(len(dataset)))
    return [Image(path) for path in paths if os.path.isfile(path)]


def _labelled_part(scene: Any, labels: Any) -> Any:
    """Return a scene whose area is that of its features, if all else is ignored."""
    files = [mask.path for mask in scene.masks if mask.is_vector]
    if not files or scene.area is not None or labels.background != labels.ignore_index:
        return scene
    shapes = [shape for path in files for shape in labels.features(path, scene.grid)[0]]
    return replace(scene, area=Area(scene.grid.crs, (0, 0, 0, 0), tuple(shapes)))


def _copies(images: Sequence[Image], known: Sequence[Image]) -> list[str]:
    """Return the paths of images with the content of a known one, except for blank images.

    Only files of equal size are opened, and none if they are more than ``MOST_COMPARED``.
    """
    paths, others = (
        {i.path: os.path.getsize(i.path) for i in each if os.path.isfile(i.path)}
        for each in (images, known)
    )
    sizes = set(paths.values()) & set(others.values())
    paths, others = ([p for p, size in each.items() if size in sizes] for each in (paths, others))
    if len(paths) + len(others) > MOST_COMPARED:
        return []
    by_bytes: dict[bytes, list[str]] = {}
    for path in others:
        by_bytes.setdefault(_sampled_bytes(path), []).append(path)
    return [
        path
        for path in paths
        if any(cmp(path, one, shallow=False) for one in by_bytes.get(_sampled_bytes(path), ()))
        and not _is_blank(path)
    ]


def _sampled_bytes(path: str, count: int = 2048) -> bytes:
    """Return bytes of the middle and the end of a file, where images differ."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        parts = []
        for start in (size // 2, max(size - count, 0)):
            file.seek(start)
            parts.append(file.read(count))
    return b"".join(parts)


def _is_blank(path: str) -> bool:
    """Return whether all pixels of each band are equal; False if the file cannot be read."""
    with suppress(DataError), open_raster(path) as source:
        size = min(source.height, 1024), min(source.width, 1024)
        bands = source.read(out_shape=(source.count, *size))
        return all(values.min() == values.max() for values in bands)
    return False
