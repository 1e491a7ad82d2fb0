"""Confusion matrices: counts, and what is read back."""

import numpy as np
import pytest
import torch

from hook.errors import DataError
from hook.evaluation.confusion import (
    confusion_matrix,
    load_confusion_matrix,
    save_confusion_matrix,
)


def test_counts():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 4, (2, 30, 20))
    expected, _, _ = np.histogram2d(truth.ravel(), prediction.ravel(), bins=4, range=[[0, 4]] * 2)
    found = confusion_matrix(torch.from_numpy(truth), torch.from_numpy(prediction), 4)
    assert found.dtype == np.int64
    assert np.array_equal(found, expected)


def test_round_trip_and_damaged_files(tmp_path):
    save_confusion_matrix(tmp_path, ("a", "b"), np.array([[1, 2], [3, 4]]))
    for path in (tmp_path, tmp_path / "confusion_matrix.json"):
        classes, matrix = load_confusion_matrix(path)
        assert classes == ["a", "b"]
        assert matrix.tolist() == [[1, 2], [3, 4]]
    for text in ("{", "[]", '{"classes": ["a"], "matrix": [[1, 2]]}'):
        (tmp_path / "confusion_matrix.json").write_text(text)
        with pytest.raises(DataError, match="holds no confusion matrix"):
            load_confusion_matrix(tmp_path)
    with pytest.raises(DataError):
        load_confusion_matrix(tmp_path / "none.json")
