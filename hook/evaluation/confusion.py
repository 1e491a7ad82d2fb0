"""Confusion matrices of class maps: counts, scores per class, reading and writing."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from hook.errors import DataError
from hook.geo.staging import atomic_write

CONFUSION_FILE = "confusion_matrix.json"


def check_same_size(
    first: np.ndarray, second: np.ndarray, names: str = "truth and prediction"
) -> None:
    """Raise DataError if two maps (H, W), called ``names`` in the message, differ in size."""
    if first.shape != second.shape:
        raise DataError(
            f"{names} differ in size",
            expected=first.shape,
            found=second.shape,
            remedy=f"use {names} of the same image, on one grid",
        )


def check_labels(
    labels: np.ndarray,
    num_classes: int,
    ignore_index: int | None,
    problem: str = "label outside the range",
) -> np.ndarray:
    """Return the labels other than ``ignore_index``, as (n,) int64.

    Args:
        labels: Class indexes of any shape.
        num_classes: K.
        ignore_index: Label of ignored pixels; None for none.
        problem: Start of the error message.

    Raises:
        DataError: One of them is outside ``[0, K)``.
    """
    counted = labels[labels != ignore_index].astype(np.int64)
    if counted.size and not 0 <= counted.min() <= counted.max() < num_classes:
        raise DataError(
            problem,
            expected=f"0 to {num_classes - 1}, or {ignore_index} for no label",
            found=f"{counted.min()} to {counted.max()}",
            remedy="check the classes of the dataset, num_classes of the head, and whether labels "
            "start at 0",
        )
    return counted


def confusion_matrix(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_index: int | None = 255
) -> np.ndarray:
    """Count pairs of true and predicted class.

    Args:
        truth: Class indexes of any shape.
        prediction: Class indexes of the same shape.
        num_classes: K.
        ignore_index: True class of ignored pixels; None for none.

    Returns:
        (K, K) int64, rows the true class, columns the predicted one.

    Raises:
        DataError: The shapes differ, or a class is outside ``[0, K)``.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    check_same_size(truth, prediction)
    counted = truth != ignore_index
    rows, columns = (
        check_labels(labels[counted], num_classes, None, f"class outside the range in the {name}")
        for name, labels in (("truth", truth), ("prediction", prediction))
    )
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def class_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the scores of each class from a confusion matrix (K, K), rows the true class.

    Returns:
        ``recall``, ``precision``, ``f1`` and ``iou``, (K,) each, from 0 to 1; NaN where undefined,
        as for a class that is neither in the truth nor predicted.
    """
    hit, true, predicted = np.diag(matrix).astype(float), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "recall": hit / true,
            "precision": hit / predicted,
            "f1": 2 * hit / (true + predicted),
            "iou": hit / (true + predicted - hit),
        }


def macro_scores(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return scores to average over classes by scikit-learn's convention.

    Args:
        scores: Of :func:`class_scores` or :func:`hook.evaluation.boundary.boundary_scores`.

    Returns:
        The same, with a precision and recall of 0 instead of NaN for each class that has an F1: one
        that occurs in the truth or in the prediction. scikit-learn does so by default
        (``zero_division``), so that a class that is only predicted lowers all three means.
    """
    has_f1 = ~np.isnan(scores["f1"])
    return scores | {
        key: np.where(has_f1, np.nan_to_num(scores[key]), np.nan) for key in ("precision", "recall")
    }


def save_confusion_matrix(folder: str | os.PathLike, classes: Sequence[str], matrix) -> Path:
    """Write class names and counts as ``confusion_matrix.json`` into ``folder``.

    A file of this name that HOOK did not write is kept, with a warning.
    """
    target = Path(folder) / CONFUSION_FILE
    content = {"classes": list(classes), "matrix": np.asarray(matrix).tolist()}
    with atomic_write(target, ours=_is_confusion_matrix) as partial:
        partial.write_text(json.dumps(content))
    return target


def _is_confusion_matrix(path: Path) -> bool:
    with suppress(DataError):
        return bool(load_confusion_matrix(path))
    return False


def load_confusion_matrix(path: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """Read class names and (K, K) int64 counts written by :func:`save_confusion_matrix`.

    Args:
        path: The file, or its folder.

    Raises:
        DataError: The file is missing or has different content.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CONFUSION_FILE
    try:
        content = json.loads(path.read_text())
        classes, matrix = list(content["classes"]), np.array(content["matrix"], dtype=np.int64)
        if matrix.shape != (len(classes), len(classes)):
            raise ValueError(f"a matrix of shape {matrix.shape} for {len(classes)} classes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a confusion matrix",
            expected="confusion_matrix.json as tools/test.py --out writes it",
            found=str(error),
            remedy="run tools/test.py CONFIG CHECKPOINT --out FOLDER and use FOLDER",
        ) from None
    return classes, matrix
