"""Arguments of the wrong type or value, refused in the same words everywhere."""

import math
import os
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from hook.errors import ConfigError

_LONGEST = 60


def shown(value: object) -> str:
    """Say what was given, in a line: the value where it is short, else its type."""
    if isinstance(value, np.generic):
        value = value.item()  # 3, not np.int64(3)
    text = repr(value)
    if len(text) > _LONGEST or "\n" in text:
        return f"something of type {type(value).__name__}"
    return text


def is_whole_number(value: object) -> bool:
    """Tell whether something is an integer of Python or NumPy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Tell whether something is a finite real number of Python or NumPy."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def whole_number(
    name: str,
    value: object,
    least: int | None = 1,
    most: int | None = None,
    *,
    remedy: str | None = None,
) -> int:
    """Take a whole number.

    Args:
        name: Name of the argument.
        value: What was given.
        least: Smallest number allowed; None for any.
        most: Largest number allowed; None for any.
        remedy: What to do about another; None says to correct the argument.

    Returns:
        The number as an int.

    Raises:
        ConfigError: It is none, or out of bounds.
    """
    if (
        not is_whole_number(value)
        or (least is not None and value < least)
        or (most is not None and value > most)
    ):
        bounds = ("" if least is None else f" from {least}") + (
            "" if most is None else f" to {most}"
        )
        raise refused(name, value, f"a whole number{bounds}", remedy)
    return int(value)


def number(
    name: str,
    value: object,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    remedy: str | None = None,
) -> float:
    """Take a finite real number.

    Args:
        name: Name of the argument.
        value: What was given.
        least: Smallest number allowed; None for any.
        most: Largest number allowed; None for any.
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
        or (least is not None and value < least)
        or (most is not None and value > most)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        words = (("from", least), ("to", most), ("above", above), ("and below", below))
        bounds = "".join(f" {word} {bound:g}" for word, bound in words if bound is not None)
        raise refused(name, value, f"a number{bounds}", remedy)
    return float(value)


def pair(name: str, value: object, expected: str, remedy: str | None = None) -> tuple:
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
        raise refused(name, value, expected, remedy) from None
    return first, second


def file_name(
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
        raise refused(name, value, expected, remedy)
    return Path(value)


def refused(name: str, value: object, expected: str, remedy: str | None = None) -> ConfigError:
    """Give the error of an argument that cannot be used."""
    return ConfigError(
        f"{name}={shown(value)}",
        expected=expected,
        found=shown(value),
        remedy=remedy or f"correct {name}",
    )
