"""Confusion matrices, the one quantity both metrics are computed from."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hook.errors import DataError

CONFUSION_FILE = "confusion_matrix.json"


def confusion_matrix(truth: torch.Tensor, prediction: torch.Tensor, num_classes: int) -> np.ndarray:
    """Count pairs of true and predicted class.

    Args:
        truth: Class indexes of any shape, all in ``[0, num_classes)``.
        prediction: Class indexes of the same shape, all in ``[0, num_classes)``.
        num_classes: K.

    Returns:
        (K, K) int64, rows the true class, columns the predicted one. Exact for any count, unlike
        float32 histograms.
    """
    pairs = truth.reshape(-1).long() * num_classes + prediction.reshape(-1).long()
    counts = torch.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).cpu().numpy()


def save_confusion_matrix(folder: str | os.PathLike, classes: Sequence[str], matrix) -> Path:
    """Write class names and counts as ``confusion_matrix.json`` into ``folder``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / CONFUSION_FILE
    partial = target.with_suffix(".partial")
    content = {"classes": list(classes), "matrix": np.asarray(matrix).tolist()}
    partial.write_text(json.dumps(content))
    os.replace(partial, target)
    return target


def load_confusion_matrix(path: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """Read what :func:`save_confusion_matrix` wrote.

    Args:
        path: The file, or the folder that holds it.

    Returns:
        Class names, and the (K, K) int64 counts.

    Raises:
        DataError: The file is missing or holds something else.
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
            f"{path} holds no confusion matrix",
            expected="confusion_matrix.json as tools/test.py --out writes it",
            found=str(error),
            remedy="run tools/test.py CONFIG CHECKPOINT --out FOLDER and give FOLDER",
        ) from None
    return classes, matrix
