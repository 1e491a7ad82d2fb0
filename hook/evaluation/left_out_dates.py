"""Images of a date from those of other dates: what a model of time series is compared with."""

import numpy as np
import pandas as pd

YEAR = 365.25  # days


def nearest_date(days: np.ndarray, values: np.ndarray, day: float) -> np.ndarray:
    """Return the known value nearest in time; of two equally near ones, the first.

    Args:
        days: (T,) dates in days.
        values: (T, ...) values, NaN where unknown.
        day: The date that is asked for.

    Returns:
        (...) values, NaN where no date is known.
    """
    distance = np.abs(days - day).reshape(-1, *(1,) * (values.ndim - 1))
    distance = np.where(np.isnan(values), np.inf, distance)
    return np.take_along_axis(values, distance.argmin(axis=0)[None], axis=0)[0]


def interpolate_linearly(days: np.ndarray, values: np.ndarray, day: float) -> np.ndarray:
    """Interpolate linearly between the known values before and after; at the ends, the nearest.

    Arguments and result are those of :func:`nearest_date`.
    """
    flat = np.concatenate([values.reshape(len(days), -1), np.full((1, values[0].size), np.nan)])
    table = pd.DataFrame(flat, index=np.append(days, day)).sort_index(kind="stable")
    row = np.argsort(np.append(days, day), kind="stable").argmax()
    filled = table.interpolate(method="index", limit_direction="both")
    return filled.iloc[row].to_numpy().reshape(values.shape[1:])


def fit_harmonic(
    days: np.ndarray, values: np.ndarray, day: float, ridge: float = 1e-2
) -> np.ndarray:
    """Fit a mean and a yearly sine and cosine to the known values of each pixel (least squares).

    Other arguments and the result are those of :func:`nearest_date`.

    Args:
        days: See there.
        values: See there.
        day: See there.
        ridge: Penalty of the squared sine and cosine beside the squared errors, which decides where
            fewer than three dates are known.
    """
    terms = _harmonic(np.asarray(days))
    known = ~np.isnan(values.reshape(len(days), -1))
    flat = np.where(known, values.reshape(len(days), -1), 0)
    squares = np.einsum("tp,ti,tj->pij", known, terms, terms)
    squares += np.diag([1e-9, ridge, ridge])
    weights = np.linalg.solve(squares, np.einsum("tp,ti->pi", flat, terms)[..., None])[..., 0]
    fitted = np.where(known.any(axis=0), weights @ _harmonic(np.array([day]))[0], np.nan)
    return fitted.reshape(values.shape[1:])


def _harmonic(days: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi * days / YEAR
    return np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], axis=1)


BASELINES = {
    "nearest date": nearest_date,
    "linear interpolation": interpolate_linearly,
    "harmonic fit": fit_harmonic,
}
