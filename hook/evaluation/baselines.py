"""What any trained segmentation model must beat: one class everywhere, and colour alone.

Both baselines see a pixel at a time and learn in one pass over the training images, so they need
no more memory than one image.
"""

from collections.abc import Sequence

import numpy as np

from hook.errors import ConfigError, DataError
from hook.evaluation.confusion import check_labels, check_same_size, class_scores


def segmentation_scores(matrix: np.ndarray) -> dict[str, float | list[float]]:
    """Intersection over union, accuracy and F1 from a confusion matrix.

    A class that is neither in the truth nor predicted has no IoU (NaN) and is left out of the
    means, as in mmsegmentation's ``IoUMetric``.

    Args:
        matrix: (K, K) counts, row = true class, column = predicted class.

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
        ignore_index: Label of pixels that do not count.
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
        """The most frequent class.

        Raises:
            DataError: If no labelled pixel was seen.
        """
        if not self.counts.any():
            raise _nothing_learned()
        return int(self.counts.argmax())

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Label an image (C, H, W): (H, W) int64 of one class."""
        return np.full(image.shape[-2:], self.label, np.int64)


class NearestCentroid:
    """Predict the class whose mean spectrum is nearest: the minimum-distance classifier.

    Distances are Euclidean after each band is divided by its standard deviation over all training
    pixels, so that a band with large numbers does not decide alone. A class without training
    pixels is never predicted.

    Args:
        num_classes: Number of classes K.
        num_bands: Number of bands C.
        ignore_index: Label of pixels that do not count.

    Reference:
        Richards and Jia, Remote Sensing Digital Image Analysis (2006), chapter 8.3.
    """

    def __init__(self, num_classes: int, num_bands: int, ignore_index: int = 255) -> None:
        self.num_classes, self.num_bands = num_classes, num_bands
        self.ignore_index = ignore_index
        self._count = np.zeros(num_classes, np.int64)
        self._sum = np.zeros((num_classes, num_bands))
        self._square = np.zeros(num_bands)
        # Sums are kept about the first pixels' mean: squares of large counts would cancel.
        self._origin: np.ndarray | None = None

    def partial_fit(
        self, image: np.ndarray, labels: np.ndarray, valid: np.ndarray | None = None
    ) -> "NearestCentroid":
        """Take one training image into the class means.

        Args:
            image: (C, H, W) values of any real dtype.
            labels: (H, W) integer class indexes.
            valid: (H, W) bool; pixels that are False do not count.

        Raises:
            DataError: If the number of bands, a size or a label does not fit.
        """
        self._check_bands(image)
        check_same_size(image[0], labels, "image and labels")
        if valid is not None:
            labels = np.where(valid.astype(bool), labels, self.ignore_index)
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
            raise _nothing_learned()
        with np.errstate(invalid="ignore"):
            return self._sum / self._count[:, None] + self._origin

    @property
    def mean(self) -> np.ndarray:
        """Mean of each band over all training pixels, (C,) float64."""
        if self._origin is None:
            raise _nothing_learned()
        return self._sum.sum(0) / self._count.sum() + self._origin

    @property
    def scale(self) -> np.ndarray:
        """Standard deviation of each band over all training pixels, (C,) float64."""
        if self._origin is None:
            raise _nothing_learned()
        total = self._count.sum()
        variance = self._square / total - np.square(self._sum.sum(0) / total)
        # A constant band says nothing; dividing by one keeps it harmless.
        return np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1.0)

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Label an image (C, H, W): (H, W) int64.

        Raises:
            DataError: If the number of bands differs or nothing was learned.
        """
        self._check_bands(image)
        centroids, scale = self.centroids / self.scale, self.scale
        known = np.flatnonzero(self._count)
        best = np.full(image.shape[1:], np.inf)
        label = np.zeros(image.shape[1:], np.int64)
        for k in known:
            distance = np.zeros(image.shape[1:])
            for band in range(self.num_bands):
                distance += np.square(image[band] / scale[band] - centroids[k, band])
            nearer = distance < best
            best[nearer], label[nearer] = distance[nearer], k
        return label

    def _check_bands(self, image: np.ndarray) -> None:
        if image.ndim != 3 or image.shape[0] != self.num_bands:
            raise DataError(
                "the image has another number of bands",
                expected=f"({self.num_bands}, H, W)",
                found=image.shape,
                remedy="give images with the bands that the baseline was fitted to",
            )


def check_margins(
    score: float, majority: float, centroid: float, lead: float = 20.0
) -> Sequence[str]:
    """List what a model's mIoU lacks against the two baselines.

    Args:
        score: mIoU of the model in percent.
        majority: mIoU of the majority-class map.
        centroid: mIoU of the nearest-centroid classifier.
        lead: Points the model must be ahead of the majority-class map.

    Returns:
        Sequence[str]: One sentence per bar missed; empty where both are met.

    Raises:
        ConfigError: If a score is not a number.
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


def _nothing_learned() -> DataError:
    return DataError(
        "the baseline saw no labelled pixel",
        expected="at least one training image with labels",
        remedy="check the masks and their ignore index",
    )
