import numpy as np
import pytest

from hook.errors import DataError
from hook.evaluation.bootstrap import accuracy, class_iou, mean_iou, paired_bootstrap


def answers(correct):
    """One-hot confusion matrices of two classes from right (1) and wrong (0) answers."""
    matrices = np.zeros((len(correct), len(correct[0]), 2, 2), dtype=np.int64)
    for s, seed in enumerate(correct):
        for i, right in enumerate(seed):
            matrices[s, i, 0, 0 if right else 1] = 1
    return matrices


def test_scores_by_hand():
    confusion = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert accuracy(confusion) == pytest.approx(75.0)
    assert class_iou(0)(confusion) == pytest.approx(100 * 6 / 9)
    assert mean_iou(confusion) == pytest.approx(100 * (6 / 9 + 3 / 6) / 2)


def test_standard_error_is_that_of_the_paired_difference():
    """For accuracy the difference is a mean over images, whose standard error is known."""
    rng = np.random.default_rng(0)
    a, b = rng.random((1, 400)) < 0.8, rng.random((1, 400)) < 0.7
    result = paired_bootstrap(answers(a), answers(b), accuracy, n_resamples=2000)
    d = a[0].astype(float) - b[0]
    assert result.difference == pytest.approx(100 * d.mean())
    assert result.standard_error == pytest.approx(100 * d.std() / 20, rel=0.08)
    half = 1.96 * 100 * d.std() / 20
    assert result.low == pytest.approx(result.difference - half, abs=0.5)
    assert result.high == pytest.approx(result.difference + half, abs=0.5)


def test_seeds_are_averaged():
    a = answers([[1, 1, 1, 1], [1, 1, 0, 0]])
    b = answers([[1, 0, 1, 0]])
    result = paired_bootstrap(a, b, accuracy, n_resamples=100)
    assert result.first == pytest.approx(75.0)
    assert result.second == pytest.approx(50.0)


def test_other_images_are_refused():
    with pytest.raises(DataError, match="image by image"):
        paired_bootstrap(answers([[1, 0]]), answers([[1, 0, 1]]), accuracy)
