"""Mean, standard deviation and range of each band over data sets."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hook.errors import DataError
from hook.geo.bands import to_model_units
from hook.progress import progress_bar


@dataclass
class BandStatistics:
    """Running moments of several bands, merged in float64.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque, *Updating formulae and a pairwise algorithm for
    computing sample variances*, 1979.
    """

    count: int = 0
    pixels: int = 0
    mean: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    minimum: np.ndarray | None = None
    maximum: np.ndarray | None = None

    def update(self, image: np.ndarray, valid: np.ndarray) -> None:
        """Add one image.

        Args:
            image: (H, W, C) in model units.
            valid: (H, W), nonzero where valid.
        """
        self.pixels += valid.size
        self.add(image[valid != 0])

    def add(self, values: np.ndarray) -> None:
        """Add pixels.

        Args:
            values: (N, C) in model units.
        """
        if not len(values):
            return
        values = values.astype(np.float64)
        low, high = values.min(axis=0), values.max(axis=0)
        self.minimum = low if self.minimum is None else np.minimum(self.minimum, low)
        self.maximum = high if self.maximum is None else np.maximum(self.maximum, high)
        mean = values.mean(axis=0)
        squares = ((values - mean) ** 2).sum(axis=0)
        total = self.count + len(values)
        delta = mean - self.mean
        self.squares = self.squares + squares + delta**2 * (self.count * len(values) / total)
        self.mean = self.mean + delta * (len(values) / total)
        self.count = total

    def result(self) -> dict[str, Any]:
        """Return mean, population std, min and max per band, and the share of valid pixels."""
        return {
            "mean": self.mean.tolist(),
            "std": np.sqrt(self.squares / self.count).tolist(),
            "min": self.minimum.tolist(),
            "max": self.maximum.tolist(),
            "valid_share": self.count / self.pixels,
            "valid_pixels": self.count,
            "pixels": self.pixels,
        }


def plain_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the datasets inside MMEngine's wrappers, ignoring repetitions."""
    if hasattr(dataset, "datasets"):
        for part in dataset.datasets:
            yield from plain_datasets(part)
    elif hasattr(dataset, "dataset"):
        yield from plain_datasets(dataset.dataset)
    else:
        yield dataset


def without_pipelines(cfg: Any) -> Any:
    """Copy a dataset config with empty pipelines."""
    if isinstance(cfg, Mapping):
        copied = {key: without_pipelines(value) for key, value in cfg.items()}
        return {**copied, "pipeline": []} if "pipeline" in copied else copied
    if isinstance(cfg, list | tuple):
        return type(cfg)(without_pipelines(value) for value in cfg)
    return cfg


def samples(dataset: Any) -> Iterator[dict[str, Any]]:
    """Yield all samples of a dataset; a ``GeoTIFFFolder`` is switched to its cover."""
    if getattr(dataset, "mode", None) == "random":
        dataset.mode = "cover"
    for index in range(len(dataset)):
        yield dataset[index]


def inside_scene(sample: Mapping[str, Any]) -> tuple[slice, slice]:
    """Return the slices of a chip inside its scene, without padding."""
    geo = sample.get("geo") or {}
    if "window" not in geo or "scene_shape" not in geo:
        return slice(None), slice(None)
    row, col, height, width = geo["window"]
    rows, cols = geo["scene_shape"]
    return slice(max(-row, 0), min(height, rows - row)), slice(max(-col, 0), min(width, cols - col))


def compute_statistics(datasets: Iterable[Any], quiet: bool = False) -> dict[str, Any]:
    """Compute the statistics over all samples of datasets.

    Args:
        datasets: Datasets without pipeline; samples hold ``img`` and optionally ``valid``.
        quiet: Hide the progress bar.

    Returns:
        See :meth:`BandStatistics.result`, and ``bands`` if set in the dataset meta.

    Raises:
        DataError: If no pixel is valid, or the datasets differ in bands.
    """
    datasets = list(datasets)
    statistics = BandStatistics()
    num_bands, bands = None, None
    for dataset in datasets:
        meta = {**dataset.metainfo, "mean": None}
        bands = bands or meta.get("bands")
        progress = progress_bar(samples(dataset), total=len(dataset), unit="chip", show=not quiet)
        for sample in progress:
            part = inside_scene(sample)
            image = np.atleast_3d(sample["img"])[part]
            valid = sample.get("valid")
            valid = np.ones(image.shape[:2], np.uint8) if valid is None else valid[part]
            if valid.ndim > 2:  # a series: H W T*C -> T*H W C
                image = np.concatenate(np.split(image, valid.shape[2], axis=2))
                valid = np.concatenate([*valid.transpose(2, 0, 1)])
            if num_bands is not None and image.shape[2] != num_bands:
                raise DataError(
                    f"{sample.get('img_path', 'a sample')}: different band count",
                    expected=num_bands,
                    found=image.shape[2],
                    remedy="select bands with metainfo['bands']",
                )
            num_bands = image.shape[2]
            scaled = to_model_units(image.transpose(2, 0, 1), valid, meta).transpose(1, 2, 0)
            statistics.update(scaled, valid)
    if not statistics.count:
        raise DataError(
            "no valid pixel in the dataset",
            expected="at least one",
            found=f"{statistics.pixels} pixels, all nodata",
            remedy="correct metainfo['nodata'] or the split",
        )
    result = statistics.result()
    if bands is not None:
        result = {"bands": list(bands), **result}
    return result


def labelled_statistics(
    dataset: Any, num_classes: int, desc: str = "", show: bool = True
) -> tuple[BandStatistics, np.ndarray]:
    """Compute statistics of native values, and (K,) pixel counts of the classes.

    Args:
        dataset: A folder of GeoTIFFs with masks, without pipeline.
        num_classes: Number of classes K.
        desc: Label of the progress bar.
        show: Show the progress bar.
    """
    statistics, counts = BandStatistics(), np.zeros(num_classes, np.int64)
    bar = dict(total=len(dataset), desc=desc, unit="chip", leave=False, delay=2, show=show)
    for sample in progress_bar(samples(dataset), **bar):
        inside = inside_scene(sample)
        statistics.update(np.atleast_3d(sample["img"])[inside], sample["valid"][inside])
        labels = sample["gt_seg_map"]
        counts += np.bincount(labels[labels < num_classes], minlength=num_classes)
    return statistics, counts
