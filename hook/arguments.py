"""Arguments of the wrong type or value, refused in the same words everywhere."""

import math
import os
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from hook.errors import ConfigError

_LONGEST = 60


def short_repr(value: object) -> str:
    """Say what was given, in a line: the value where it is short, else its type."""
    if isinstance(value, np.generic):
        value = value.item()  # 3, not np.int64(3)
    text = repr(value)
    if len(text) > _LONGEST or "\n" in text:
        return f"something of type {type(value).__name__}"
    return text


def is_int(value: object) -> bool:
    """Tell whether something is an integer of Python or NumPy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Tell whether something is a finite real number of Python or NumPy."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_int(
    name: str,
    value: object,
    minimum: int | None = 1,
    maximum: int | None = None,
    *,
    remedy: str | None = None,
) -> int:
    """Take a whole number.

    Args:
        name: Name of the argument.
        value: What was given.
        minimum: Smallest number allowed; None for any.
        maximum: Largest number allowed; None for any.
        remedy: What to do about another; None says to correct the argument.

    Returns:
        The number as an int.

    Raises:
        ConfigError: It is none, or out of bounds.
    """
    if (
        not is_int(value)
        or (minimum is not None and value < minimum)
        or (maximum is not None and value > maximum)
    ):
        bounds = ("" if minimum is None else f" from {minimum}") + (
            "" if maximum is None else f" to {maximum}"
        )
        raise bad_argument(name, value, f"a whole number{bounds}", remedy)
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
    """Take a finite real number.

    Args:
        name: Name of the argument.
        value: What was given.
        minimum: Smallest number allowed; None for any.
        maximum: Largest number allowed; None for any.
        above: Number that it must exceed.
        below: Number that it must stay below.
        remedy: What to do about another; None says to correct the argument.

    Returns:
        The number as a float.

    Raises:
        ConfigError: It is none, is not finite or out of bounds.
    """
    if (
        not is_number(value)
        or (minimum is not None and value < minimum)
        or (maximum is not None and value > maximum)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        words = (("from", minimum), ("to", maximum), ("above", above), ("and below", below))
        bounds = "".join(f" {word} {bound:g}" for word, bound in words if bound is not None)
        raise bad_argument(name, value, f"a number{bounds}", remedy)
    return float(value)


def check_pair(name: str, value: object, expected: str, remedy: str | None = None) -> tuple:
    """Take two things, which are not looked at.

    Args:
        name: Name of the argument.
        value: What was given.
        expected: What it should be.
        remedy: What to do about anything else; None says to correct the argument.

    Returns:
        The two.

    Raises:
        ConfigError: It is not two.
    """
    try:
        first, second = value
    except (TypeError, ValueError):
        raise bad_argument(name, value, expected, remedy) from None
    return first, second


def check_path(
    name: str, value: object, expected: str = "the name of a file", remedy: str | None = None
) -> Path:
    """Take the name of a file or folder.

    Args:
        name: Name of the argument.
        value: What was given.
        expected: What it should be.
        remedy: What to do about anything else; None says to correct the argument.

    Returns:
        The path; whether it exists is another question.

    Raises:
        ConfigError: It is no text and no path.
    """
    if not isinstance(value, str | os.PathLike):
        raise bad_argument(name, value, expected, remedy)
    return Path(value)


def bad_argument(name: str, value: object, expected: str, remedy: str | None = None) -> ConfigError:
    """Give the error of an argument that cannot be used."""
    return ConfigError(
        f"{name}={short_repr(value)}",
        expected=expected,
        found=short_repr(value),
        remedy=remedy or f"correct {name}",
    )
