"""Bootstrap over test images: difference of two models, and means of measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import bootstrap

from hook.errors import DataError
from hook.evaluation.confusion import class_scores

_RESAMPLES = 9999


class Comparison(NamedTuple):
    """Difference of two models on the same images, in percentage points.

    Attributes:
        first: Score of the first model in percent.
        second: Score of the second model in percent.
        difference: First minus second.
        low: Lower end of the confidence interval of the difference.
        high: Upper end.
        standard_error: Standard error of the difference.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    standard_error: float


def mean_iou(confusion: np.ndarray) -> float:
    """Return the mean IoU of a (K, K) confusion matrix in percent, without absent classes."""
    return 100 * float(np.nanmean(class_scores(confusion)["iou"]))


def class_iou(index: int) -> Callable[[np.ndarray], float]:
    """Return a function that computes the IoU of one class in percent."""
    return lambda confusion: 100 * float(class_scores(confusion)["iou"][index])


def accuracy(confusion: np.ndarray) -> float:
    """Return the overall accuracy of a (K, K) confusion matrix in percent."""
    return 100 * float(np.trace(confusion) / confusion.sum())


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    score: Callable[[np.ndarray], float],
    n_resamples: int = _RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same images, resampled with replacement.

    The score of a model is the mean over its seeds of the score of the summed confusion matrices;
    the models may have different numbers of seeds.

    Args:
        first: (S, I, K, K) confusion matrices by seed and image of the first model.
        second: (T, I, K, K), the same images in the same order.
        score: Function of a (K, K) confusion matrix that returns percent.
        n_resamples: Number of resamples.
        confidence: Level of the percentile interval.
        seed: Seed of the resampling.

    Raises:
        DataError: The images or classes differ, or there are fewer than two images.

    Reference:
        Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapters 8 and 13.
    """
    if first.shape[1:] != second.shape[1:] or first.shape[1] < 2:
        raise DataError(
            "the two models cannot be compared image by image",
            expected="the same images, two or more, and the same classes",
            found=f"{first.shape[1]} and {second.shape[1]} images, "
            f"{first.shape[-1]} and {second.shape[-1]} classes",
            remedy="test both models on the same list of images",
        )

    def mean_score(matrices: np.ndarray, images: np.ndarray) -> float:
        return float(np.mean([score(seed[images].sum(axis=0)) for seed in matrices]))

    def difference(images: np.ndarray) -> float:
        return mean_score(first, images) - mean_score(second, images)

    everything = np.arange(first.shape[1])
    result = _resample(difference, len(everything), n_resamples, confidence, seed)
    return Comparison(
        mean_score(first, everything),
        mean_score(second, everything),
        difference(everything),
        float(result.confidence_interval.low),
        float(result.confidence_interval.high),
        float(result.standard_error),
    )


def _resample(
    statistic: Callable[[np.ndarray], float],
    count: int,
    n_resamples: int = _RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Any:
    return bootstrap(
        (np.arange(count),),
        lambda images: statistic(images.astype(np.int64)),
        n_resamples=n_resamples,
        confidence_level=confidence,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(seed),
    )


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; NaN where undefined."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """Return the numbers for JSON, with None for NaN."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high}
        return {name: None if np.isnan(value) else value for name, value in numbers.items()}


def bootstrap_score(
    confusions: np.ndarray, score: Callable[[np.ndarray], float], seed: int = 0
) -> Interval:
    """Return a score of the sum of (I, K, K) confusion matrices, and its interval over them.

    The interval is NaN with fewer than two matrices.
    """
    value = score(confusions.sum(axis=0))
    if len(confusions) < 2:
        return Interval(value, float("nan"), float("nan"))
    found = _resample(
        lambda images: score(confusions[images].sum(axis=0)), len(confusions), seed=seed
    )
    return Interval(value, *map(float, found.confidence_interval))


def bootstrap_mean(
    values: Sequence[float],
    files: Sequence[str | int],
    seed: int,
    weights: Sequence[float] | None = None,
) -> Interval:
    """Return the mean over images and its percentile interval from a bootstrap over the files.

    The interval is NaN with fewer than two files.

    Args:
        values: One per image; NaN is ignored.
        files: Source file of each image, or its number; images of one file are drawn together.
        seed: Seed of the draws; the same files get the same draws.
        weights: Of the images in the mean, such as their numbers of pixels; None: equal.

    Reference:
        Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    values = np.asarray(values, float)
    known = ~np.isnan(values)
    if not known.any():
        return Interval(*[float("nan")] * 3)
    group = np.unique(np.asarray(files), return_inverse=True)[1]
    known = known * (np.ones_like(values) if weights is None else np.asarray(weights, float))
    sums = np.bincount(group, weights=np.where(known > 0, values * known, 0))
    counts = np.bincount(group, weights=known)
    mean = float(sums.sum() / counts.sum())
    if np.count_nonzero(counts) < 2:
        return Interval(mean, float("nan"), float("nan"))
    files_drawn = np.random.default_rng(seed).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=_RESAMPLES
    )
    drawn = files_drawn @ counts
    means = (files_drawn @ sums)[drawn > 0] / drawn[drawn > 0]
    return Interval(mean, *(float(end) for end in np.percentile(means, (2.5, 97.5))))
