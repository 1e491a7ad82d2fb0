"""Baselines for segmentation: majority class and nearest centroid.

Both are fitted in one pass over the training images, with one image in memory at a time.
"""

from collections.abc import Sequence

import numpy as np

from hook.errors import ConfigError, DataError
from hook.evaluation.confusion import check_labels, check_same_size, class_scores


def segmentation_scores(matrix: np.ndarray) -> dict[str, float | list[float]]:
    """Compute IoU, accuracy and F1 from a confusion matrix (K, K), rows the true class.

    A class that is neither in the truth nor predicted has no IoU (NaN) and is excluded from the
    means, as in mmsegmentation's ``IoUMetric``.

    Returns:
        dict: ``mIoU``, ``aAcc`` (overall accuracy), ``mAcc``, ``mF1`` and the list ``IoU`` per
        class, all in percent.
    """
    scores = class_scores(matrix)

    def mean(values: np.ndarray) -> float:
        present = values[~np.isnan(values)]
        return float(100 * present.mean()) if present.size else float("nan")

    total = matrix.sum()
    return {
        "mIoU": mean(scores["iou"]),
        "aAcc": float(100 * np.trace(matrix) / total) if total else float("nan"),
        "mAcc": mean(scores["recall"]),
        "mF1": mean(scores["f1"]),
        "IoU": [float(v) for v in 100 * scores["iou"]],
    }


class MajorityClass:
    """Predict the most frequent class of the training labels for each pixel.

    Args:
        num_classes: Number of classes K.
        ignore_index: Label of ignored pixels.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index
        self.counts = np.zeros(num_classes, np.int64)

    def partial_fit(self, labels: np.ndarray) -> "MajorityClass":
        """Count the labels of one training image, (H, W) integers."""
        counted = check_labels(labels, len(self.counts), self.ignore_index)
        self.counts += np.bincount(counted, minlength=len(self.counts))
        return self

    @property
    def label(self) -> int:
        """The most frequent class; DataError before any labelled pixel was seen."""
        if not self.counts.any():
            raise _not_fitted()
        return int(self.counts.argmax())

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Label an image (C, H, W): (H, W) int64 of one class."""
        return np.full(image.shape[-2:], self.label, np.int64)


class NearestCentroid:
    """Predict the class with the nearest mean spectrum: the minimum-distance classifier.

    Distances are Euclidean, with each band divided by its standard deviation over all training
    pixels. A class without training pixels is never predicted.

    Args:
        num_classes: Number of classes K.
        num_bands: Number of bands C.
        ignore_index: Label of ignored pixels.

    Reference:
        Richards and Jia, Remote Sensing Digital Image Analysis (2006), chapter 8.3.
    """

    def __init__(self, num_classes: int, num_bands: int, ignore_index: int = 255) -> None:
        self.num_classes, self.num_bands = num_classes, num_bands
        self.ignore_index = ignore_index
        self._count = np.zeros(num_classes, np.int64)
        self._sum = np.zeros((num_classes, num_bands))
        self._square = np.zeros(num_bands)
        # Sums are relative to the mean of the first image, to avoid cancellation of squares.
        self._origin: np.ndarray | None = None

    def partial_fit(
        self, image: np.ndarray, labels: np.ndarray, valid: np.ndarray | None = None
    ) -> "NearestCentroid":
        """Add one training image to the class means.

        Args:
            image: (C, H, W) values of any real dtype.
            labels: (H, W) integer class indexes.
            valid: (H, W) bool; False for ignored pixels. Those that are not finite are ignored too.

        Raises:
            DataError: The number of bands, a size or a label is wrong.
        """
        self._check_bands(image)
        check_same_size(image[0], labels, "image and labels")
        known = np.isfinite(image).all(axis=0)
        if valid is not None:
            known &= valid.astype(bool)
        labels = np.where(known, labels, self.ignore_index)
        classes = check_labels(labels, self.num_classes, self.ignore_index)
        pixels = image[:, labels != self.ignore_index].astype(np.float64)
        if classes.size == 0:
            return self
        if self._origin is None:
            self._origin = pixels.mean(1)
        pixels -= self._origin[:, None]
        self._count += np.bincount(classes, minlength=self.num_classes)
        for band, values in enumerate(pixels):
            self._sum[:, band] += np.bincount(classes, values, minlength=self.num_classes)
            self._square[band] += np.square(values).sum()
        return self

    @property
    def centroids(self) -> np.ndarray:
        """Class means, (K, C) float64; NaN for a class without training pixels."""
        if self._origin is None:
            raise _not_fitted()
        with np.errstate(invalid="ignore"):
            return self._sum / self._count[:, None] + self._origin

    @property
    def mean(self) -> np.ndarray:
        """Mean of each band over all training pixels, (C,) float64."""
        if self._origin is None:
            raise _not_fitted()
        return self._sum.sum(0) / self._count.sum() + self._origin

    @property
    def scale(self) -> np.ndarray:
        """Standard deviation of each band over all training pixels, (C,) float64."""
        if self._origin is None:
            raise _not_fitted()
        total = self._count.sum()
        variance = self._square / total - np.square(self._sum.sum(0) / total)
        # A constant band has no scale and is divided by one.
        return np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1.0)

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Label an image (C, H, W): (H, W) int64, the ignore index where it is not finite.

        Raises:
            DataError: The number of bands differs, or no labelled pixel was seen.
        """
        self._check_bands(image)
        centroids, scale = self.centroids / self.scale, self.scale
        best = np.full(image.shape[1:], np.inf)
        label = np.full(image.shape[1:], self.ignore_index, np.int64)
        for k in np.flatnonzero(self._count):
            distance = np.zeros(image.shape[1:])
            for band in range(self.num_bands):
                distance += np.square(image[band] / scale[band] - centroids[k, band])
            nearer = distance < best
            best[nearer], label[nearer] = distance[nearer], k
        return label

    def _check_bands(self, image: np.ndarray) -> None:
        if image.ndim != 3 or image.shape[0] != self.num_bands:
            raise DataError(
                "the number of bands of the image differs",
                expected=f"({self.num_bands}, H, W)",
                found=image.shape,
                remedy="use images with the bands that the baseline was fitted to",
            )


def check_margins(
    score: float, majority: float, centroid: float, lead: float = 20.0
) -> Sequence[str]:
    """Compare a model's mIoU with the two baselines.

    Args:
        score: mIoU of the model in percent.
        majority: mIoU of the majority-class map.
        centroid: mIoU of the nearest-centroid classifier.
        lead: Required lead over the majority-class map in percentage points.

    Returns:
        Sequence[str]: A message per missed threshold; empty if both are met.

    Raises:
        ConfigError: A score is not a number.
    """
    for name, value in (("model", score), ("majority", majority), ("centroid", centroid)):
        if not np.isfinite(value):
            raise ConfigError(
                f"the mIoU of {name} is not a number",
                found=value,
                remedy="check that the truth holds labelled pixels of its classes",
            )
    missed = []
    if score < majority + lead:
        missed.append(
            f"mIoU {score:.1f} is less than {lead:g} points above the majority-class map "
            f"({majority:.1f})"
        )
    if score < centroid:
        missed.append(f"mIoU {score:.1f} is below the nearest-centroid classifier ({centroid:.1f})")
    return missed


def _not_fitted() -> DataError:
    return DataError(
        "the baseline saw no labelled pixel",
        expected="at least one training image with labels",
        remedy="check the masks and their ignore index",
    )
