"""Confusion matrices: counts, and what is read back."""

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, precision_recall_fscore_support

from hook.errors import DataError
from hook.evaluation.confusion import (
    class_scores,
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


def test_scores_equal_scikit_learn():
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 4, (2, 300))
    scores = class_scores(confusion_matrix(truth, prediction, 5))
    labels = dict(labels=range(5), average=None, zero_division=np.nan)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, prediction, **labels)
    expected = dict(precision=precision, recall=recall, f1=f1)
    expected["iou"] = jaccard_score(truth, prediction, labels=range(4), average=None)
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name][:4], values[:4])
        assert np.isnan(scores[name][4])  # it neither occurs nor is predicted


def test_round_trip_and_damaged_files(tmp_path):
    save_confusion_matrix(tmp_path, ("a", "b"), np.array([[1, 2], [3, 4]]))
    for path in (tmp_path, tmp_path / "confusion_matrix.json"):
        classes, matrix = load_confusion_matrix(path)
        assert classes == ["a", "b"]
        assert matrix.tolist() == [[1, 2], [3, 4]]
    for text in ("{", "[]", '{"classes": ["a"], "matrix": [[1, 2]]}'):
        (tmp_path / "confusion_matrix.json").write_text(text)
        with pytest.raises(DataError, match="is not a confusion matrix"):
            load_confusion_matrix(tmp_path)
    with pytest.raises(DataError):
        load_confusion_matrix(tmp_path / "none.json")
