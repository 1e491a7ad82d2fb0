"""A date from other dates: nearest, linear, harmonic, with gaps."""

import numpy as np
import pytest

from hook.evaluation.left_out_dates import BASELINES, YEAR, fit_harmonic

DAYS = np.array([0.0, 30.0, 100.0, 200.0])


@pytest.fixture
def values():
    """Three pixels that grow with the days: one known always, one without a date, one never."""
    table = np.stack([DAYS, DAYS, np.full(4, np.nan)], axis=1)
    table[1, 1] = np.nan
    return table.reshape(4, 1, 3)


@pytest.mark.parametrize(
    ("name", "day", "expected"),
    [
        ("nearest date", 40.0, [30, 0]),
        ("nearest date", 500.0, [200, 200]),
        ("linear interpolation", 40.0, [40, 40]),
        ("linear interpolation", 30.0, [30, 30]),
        ("linear interpolation", -9.0, [0, 0]),
        ("linear interpolation", 500.0, [200, 200]),
    ],
)
def test_values_of_a_date(name, day, expected, values):
    found = BASELINES[name](DAYS, values, day)
    assert found.shape == (1, 3) and np.isnan(found[0, 2])
    np.testing.assert_allclose(found[0, :2], expected)


def test_a_season_is_recovered_from_other_dates_in_another_year(rng):
    days = np.array([10.0, 80.0, 150.0, 240.0, 300.0])
    size = rng.random((3, 2, 4))

    def season(day):
        angle = 2 * np.pi * day / YEAR
        return size[0] + size[1] * np.cos(angle) + size[2] * np.sin(angle)

    values = np.stack([season(day) for day in days])
    values[1, 0] = np.nan
    found = fit_harmonic(days, values, 500.0, ridge=1e-9)
    np.testing.assert_allclose(found, season(500.0), atol=1e-5)
    single = np.where(np.arange(5)[:, None, None] == 3, values, np.nan)
    np.testing.assert_allclose(fit_harmonic(days, single, 0.0), values[3], rtol=0.05)
