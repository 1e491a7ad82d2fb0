"""Types of option values."""

import pytest

from hook.cli.options import band_indexes, key_value, nodata, overlap, positive_int


def test_values():
    assert band_indexes("4,3,2") == [4, 3, 2]
    assert band_indexes("1..3,7") == [1, 2, 3, 7]
    assert nodata("nan") == "nan"
    assert nodata("-9999") == -9999
    assert nodata("0.5") == 0.5
    assert nodata("-inf") == float("-inf")
    assert overlap("0.25") == 0.25
    assert overlap("64") == 64
    assert isinstance(overlap("64"), int)
    assert overlap("0") == 0
    assert key_value("COMPRESS=ZSTD") == ("COMPRESS", "ZSTD")
    assert key_value("A=B=C") == ("A", "B=C")
    assert positive_int("3") == 3


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (band_indexes, ""),
        (band_indexes, "3..1"),
        (band_indexes, "1.5"),
        (nodata, "x"),
        (overlap, "a"),
        (overlap, "inf"),
        (overlap, "nan"),
        (positive_int, "-2"),
        (key_value, "=x"),
    ],
)
def test_refused(read, text):
    import argparse

    with pytest.raises(argparse.ArgumentTypeError, match="."):
        read(text)
