"""Boundaries of label maps, and matching of two maps' boundaries within a tolerance.

References:
    Martin, Fowlkes and Malik, "Learning to detect natural image boundaries using local brightness,
    color, and texture cues", IEEE TPAMI 26(5), 2004: precision and recall of boundaries.
    Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?",
    BMVC 2013: the same per class of a semantic segmentation (BF score).
"""

import math

import cv2
import numpy as np

from hook.errors import ConfigError
from hook.evaluation.confusion import check_labels, check_same_size


def label_boundary(labels: np.ndarray, ignore_index: int | None = 255) -> np.ndarray:
    """Mark the pixels with a 4-neighbour of a different label.

    Both sides of an edge are marked, so the boundary of one class is ``label_boundary(labels) &
    (labels == k)``. The image's border and edges of ignored pixels are not boundaries.

    Args:
        labels: (H, W) integers: classes, or other regions, such as tokens.
        ignore_index: Label of ignored pixels; None for none.

    Returns:
        (H, W) bool.
    """
    boundary = np.zeros(labels.shape, bool)
    valid = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = (labels[here] != labels[there]) & valid[here] & valid[there]
        boundary[here] |= differs
        boundary[there] |= differs
    return boundary


def count_matched(boundary: np.ndarray, reference: np.ndarray, tolerance: float) -> int:
    """Count the boundary pixels within a tolerance of a reference pixel.

    Args:
        boundary: (H, W) bool.
        reference: (H, W) bool.
        tolerance: Maximum distance, Euclidean, in pixels, inclusive.

    Raises:
        ConfigError: The tolerance is negative or not a number.
    """
    check_tolerance(tolerance, "tolerance")
    return int(np.count_nonzero(near(reference, tolerance)[boundary]))


def near(reference: np.ndarray, tolerance: float) -> np.ndarray:
    """Mark the pixels within a distance of those marked in ``reference``; (H, W) bool."""
    # For small tolerances, dilation by a disc is exact and 100 times faster than a distance
    # transform.
    return cv2.dilate(reference.astype(np.uint8), _disc(tolerance)).astype(bool)


def boundary_counts(
    truth: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    tolerance: float,
    ignore_index: int | None = 255,
) -> np.ndarray:
    """Count boundary pixels per class, and those matched in the other map; sum over images.

    Args:
        truth: (H, W) integer classes.
        prediction: (H, W) integer classes; ignored where the truth is ignored.
        num_classes: K.
        tolerance: Maximum distance of a match, Euclidean, in pixels, inclusive.
        ignore_index: Label of ignored pixels; None for none.

    Returns:
        (K, 4) int64: predicted boundary pixels near a true one of the same class, all predicted,
        true boundary pixels near a predicted one of the same class, all true.

    Raises:
        DataError: The maps differ in size, or a boundary pixel has a class outside ``[0, K)``.
        ConfigError: The tolerance is negative or not a number.
    """
    check_tolerance(tolerance, "tolerance")
    check_same_size(truth, prediction)
    if ignore_index is not None:
        prediction = np.where(truth == ignore_index, ignore_index, prediction)
    true, predicted = label_boundary(truth, ignore_index), label_boundary(prediction, ignore_index)
    counts = np.zeros((num_classes, 4), np.int64)
    labels = np.union1d(truth[true], prediction[predicted])
    for label in check_labels(labels, num_classes, None, "a class is outside the range"):
        true_of, predicted_of = true & (truth == label), predicted & (prediction == label)
        counts[label] = (
            count_matched(predicted_of, true_of, tolerance),
            np.count_nonzero(predicted_of),
            count_matched(true_of, predicted_of, tolerance),
            np.count_nonzero(true_of),
        )
    return counts


def boundary_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Compute precision, recall and F1 from the (K, 4) counts of :func:`boundary_counts`.

    Returns:
        ``precision``, ``recall`` and ``f1``, (K,) each, 0 to 1. NaN where undefined: precision
        without a predicted boundary, recall without a true one, F1 without either; with a boundary
        in only one of them, F1 is 0.
    """
    matched_predicted, predicted, matched_true, true = counts.T.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = matched_predicted / predicted, matched_true / true
        f1 = 2 * precision * recall / (precision + recall)
    # Matches are mutual: without a match on one side there is none on the other, and F1 is 0.
    f1[(matched_predicted == 0) & (predicted + true > 0)] = 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def check_tolerance(tolerance: float, option: str) -> None:
    """Raise ConfigError if a tolerance is negative or not a number."""
    if not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise ConfigError(
            option,
            expected="a distance in pixels, 0 or more",
            found=tolerance,
            remedy="set it to the accuracy of the annotation, such as 3",
        )


def _disc(radius: float) -> np.ndarray:
    """Return a (2r + 1, 2r + 1) uint8 mask of the pixels within a radius of its centre."""
    offsets = np.arange(-math.floor(radius), math.floor(radius) + 1)
    return (np.hypot(*np.meshgrid(offsets, offsets)) <= radius).astype(np.uint8)
