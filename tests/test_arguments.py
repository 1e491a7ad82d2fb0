from pathlib import Path

import numpy as np
import pytest

from hook.arguments import check_int, check_number, check_pair, check_path, is_int, short_repr
from hook.errors import ConfigError


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(7)])
def test_whole_numbers(value):
    found = check_int("k", value)
    assert found == value and type(found) is int


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, "a", "2", None, True, [2], np.float32(2)])
def test_what_is_no_whole_number(value):
    with pytest.raises(ConfigError, match="k=") as caught:
        check_int("k", value)
    assert caught.value.expected == "an integer from 1"
    assert caught.value.remedy == "correct k"


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((0,), "an integer from 0"),
        ((2, 9), "an integer from 2 to 9"),
        ((None, 9), "an integer to 9"),
        ((None,), "an integer"),
    ],
)
def test_bounds_of_whole_numbers(bounds, words):
    with pytest.raises(ConfigError) as caught:
        check_int("k", "x", *bounds, remedy="leave it out")
    assert caught.value.expected == words and caught.value.remedy == "leave it out"
    assert check_int("k", 9, *bounds) == 9
    if len(bounds) == 2:
        with pytest.raises(ConfigError):
            check_int("k", 10, *bounds)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), np.int16(1)])
def test_numbers(value):
    found = check_number("x", value, 0, 1)
    assert found == value and type(found) is float


@pytest.mark.parametrize("value", ["1", None, True, float("nan"), float("inf"), 1j, [1.0]])
def test_what_is_no_number(value):
    with pytest.raises(ConfigError, match="x=") as caught:
        check_number("x", value)
    assert caught.value.expected == "a number"


@pytest.mark.parametrize(
    ("value", "bounds", "words"),
    [
        (-1, dict(minimum=0), "a number from 0"),
        (2, dict(minimum=-1, maximum=1), "a number from -1 to 1"),
        (0, dict(above=0), "a number above 0"),
        (1, dict(above=0, below=1), "a number above 0 and below 1"),
    ],
)
def test_bounds_of_numbers(value, bounds, words):
    with pytest.raises(ConfigError) as caught:
        check_number("x", value, **bounds)
    assert caught.value.expected == words
    assert check_number("x", 0.5, **bounds) == 0.5


def test_names_of_files():
    assert check_path("path", "a.tif") == check_path("path", Path("a.tif")) == Path("a.tif")
    for value in (None, 3, b"a.tif", ["a.tif"]):
        with pytest.raises(ConfigError, match="path="):
            check_path("path", value)


def test_pairs():
    assert check_pair("at", np.array([1, 2]), "two") == (1, 2)
    for value in (None, 3, (1,), (1, 2, 3), "x"):
        with pytest.raises(ConfigError, match="at=") as caught:
            check_pair("at", value, "two numbers")
        assert caught.value.expected == "two numbers"


def test_a_message_has_room_for_a_line():
    assert short_repr(np.int64(3)) == "3" and short_repr("a") == "'a'"
    assert short_repr(np.zeros((9, 9))).endswith("type ndarray")
    assert short_repr("x" * 99).endswith("type str")
    assert not is_int(np.bool_(True))
