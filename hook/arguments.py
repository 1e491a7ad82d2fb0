"""Checks of arguments, with one form of message."""

import math
import os
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from hook.errors import ConfigError

_MAX_REPR = 60


def short_repr(value: object) -> str:
    """Return a value for a message, in one line: its repr if short, else its type."""
    if isinstance(value, np.generic):
        value = value.item()  # 3, not np.int64(3)
    text = repr(value)
    if len(text) > _MAX_REPR or "\n" in text:
        return f"something of type {type(value).__name__}"
    return text


def is_int(value: object) -> bool:
    """Return whether a value is an integer of Python or NumPy, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a finite real number of Python or NumPy, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_int(
    name: str,
    value: object,
    minimum: int | None = 1,
    maximum: int | None = None,
    *,
    remedy: str | None = None,
) -> int:
    """Return an argument as an int.

    Args:
        name: Name of the argument.
        value: Its value.
        minimum: Smallest number allowed; None for any.
        maximum: Largest number allowed; None for any.
        remedy: Remedy in the message; by default to correct the argument.

    Raises:
        ConfigError: It is not an integer, or out of bounds.
    """
    if (
        not is_int(value)
        or (minimum is not None and value < minimum)
        or (maximum is not None and value > maximum)
    ):
        bounds = ("" if minimum is None else f" from {minimum}") + (
            "" if maximum is None else f" to {maximum}"
        )
        raise bad_argument(name, value, f"an integer{bounds}", remedy)
    return int(value)


def check_number(
    name: str,
    value: object,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    remedy: str | None = None,
) -> float:
    """Return an argument as a float.

    Args:
        name: Name of the argument.
        value: Its value.
        minimum: Smallest number allowed; None for any.
        maximum: Largest number allowed; None for any.
        above: Lower bound, itself excluded.
        below: Upper bound, itself excluded.
        remedy: Remedy in the message; by default to correct the argument.

    Raises:
        ConfigError: It is not a finite real number, or out of bounds.
    """
    if (
        not is_number(value)
        or (minimum is not None and value < minimum)
        or (maximum is not None and value > maximum)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        limits = (("from", minimum), ("to", maximum), ("above", above), ("and below", below))
        bounds = "".join(f" {label} {bound:g}" for label, bound in limits if bound is not None)
        raise bad_argument(name, value, f"a number{bounds}", remedy)
    return float(value)


def check_pair(name: str, value: object, expected: str, remedy: str | None = None) -> tuple:
    """Return an argument as a tuple of two items, which are not checked.

    Args:
        name: Name of the argument.
        value: Its value.
        expected: Description of the expected value, for the message.
        remedy: Remedy in the message; by default to correct the argument.

    Raises:
        ConfigError: It does not have two items.
    """
    try:
        first, second = value
    except (TypeError, ValueError):
        raise bad_argument(name, value, expected, remedy) from None
    return first, second


def check_path(
    name: str, value: object, expected: str = "the name of a file", remedy: str | None = None
) -> Path:
    """Return an argument as a path, which need not exist.

    Args:
        name: Name of the argument.
        value: Its value.
        expected: Description of the expected value, for the message.
        remedy: Remedy in the message; by default to correct the argument.

    Raises:
        ConfigError: It is not a string or path.
    """
    if not isinstance(value, str | os.PathLike):
        raise bad_argument(name, value, expected, remedy)
    return Path(value)


def check_bands(value: object, name: str = "bidx") -> tuple[int | str, ...]:
    """Return bands as 1-based numbers, or names.

    Args:
        value: The bands.
        name: Name of the argument.

    Raises:
        ConfigError: It is not a list of these.
    """
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray) or not len(value):
        raise bad_argument(name, value, "a list of bands, from 1, such as [3, 2, 1]")
    return tuple(band if isinstance(band, str) else check_int(name, band) for band in value)


def rename_option(options: dict, old: str, new: str) -> dict:
    """Return keyword arguments with a deprecated name replaced, with a warning."""
    if old not in options:
        return options
    warnings.warn(f"{old}= is deprecated: use {new}=", DeprecationWarning, stacklevel=3)
    return {new if name == old else name: value for name, value in options.items()}


def bad_argument(name: str, value: object, expected: str, remedy: str | None = None) -> ConfigError:
    """Return the error of an argument with an unusable value."""
    return ConfigError(
        f"{name}={short_repr(value)}",
        expected=expected,
        found=short_repr(value),
        remedy=remedy or f"correct {name}",
    )
