"""Fréchet distance: values of known Gaussians, and errors."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from hook.errors import DataError
from hook.evaluation.frechet import frechet_distance


def gaussian(mean, covariance, rows, seed):
    """Rows that have this mean and covariance exactly."""
    drawn = np.random.default_rng(seed).normal(size=(rows, len(mean)))
    drawn -= drawn.mean(axis=0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_independent_channels_have_the_value_of_the_formula():
    first = gaussian(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]), 40, 0)
    second = gaussian(np.array([3.0, 1.0, -2.0]), np.diag([4.0, 4.0, 1.0]), 50, 1)
    # squared distance of the means, and of the standard deviations
    assert frechet_distance(first, second) == pytest.approx(9 + 16 + 1 + 0 + 4)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-10)


def test_correlated_channels_have_the_value_of_a_matrix_root():
    s = np.array([[2.0, 0.9, 0.1], [0.9, 1.0, -0.3], [0.1, -0.3, 0.5]])
    t = np.array([[1.0, -0.4, 0.2], [-0.4, 3.0, 0.6], [0.2, 0.6, 2.0]])
    zero = np.zeros(3)
    expected = np.trace(s + t - 2 * sqrtm(s @ t).real)
    found = frechet_distance(gaussian(zero, s, 30, 2), gaussian(zero, t, 20, 3))
    assert found == pytest.approx(expected)
    assert found > np.square(np.sqrt(np.diag(s)) - np.sqrt(np.diag(t))).sum()


def test_fewer_rows_than_channels_and_a_single_channel():
    few = np.random.default_rng(4).normal(size=(5, 12))
    assert frechet_distance(few, few + 2) == pytest.approx(4 * 12)
    assert frechet_distance([[0.0], [2.0]], [[0.0], [4.0]]) == pytest.approx(1 + 2)


@pytest.mark.parametrize("second", [np.ones((4, 2)), np.ones((1, 3)), np.full((4, 3), np.nan)])
def test_sets_that_do_not_fit_are_refused(second):
    with pytest.raises(DataError, match="Fréchet"):
        frechet_distance(np.ones((4, 3)), second)
