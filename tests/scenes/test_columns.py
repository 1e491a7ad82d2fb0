from typing import NamedTuple

import numpy as np
import pytest

from hook.scenes.columns import join, regroup, take


class Table(NamedTuple):
    numbers: np.ndarray
    vectors: np.ndarray


def table(first, last):
    numbers = np.arange(first, last)
    return Table(numbers, np.stack([numbers, -numbers], axis=1))


@pytest.mark.parametrize("ends", [[0, 3, 3, 10, 11], [0, 25], [0, 4, 8], [0, 0]])
def test_regrouped_tables_hold_the_same_records_in_equal_parts(ends):
    parts = [table(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    found = list(regroup(parts, 4))
    whole, rest = divmod(ends[-1], 4)
    assert [len(part.numbers) for part in found] == [4] * whole + [rest] * bool(rest)
    if found:
        for ours, expected in zip(join(found), table(0, ends[-1]), strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_take_chooses_records_of_all_columns():
    chosen = take(table(0, 5), np.array([3, 1]))
    assert isinstance(chosen, Table) and chosen.vectors.tolist() == [[3, -3], [1, -1]]
