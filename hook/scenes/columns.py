"""Tables as named tuples of columns: arrays with one entry (or row) per record."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

Columns = TypeVar("Columns", bound=tuple)


def take(table: Columns, index: np.ndarray | slice) -> Columns:
    """Return some records of a table."""
    return type(table)(*(column[index] for column in table))


def join(tables: Sequence[Columns]) -> Columns:
    """Concatenate one or more tables."""
    columns = (np.concatenate(parts) for parts in zip(*tables, strict=True))
    return type(tables[0])(*columns)


def regroup(tables: Iterable[Columns], size: int) -> Iterator[Columns]:
    """Regroup tables into tables of ``size`` records; the last may have fewer."""
    waiting, count = [], 0
    for table in tables:
        waiting.append(table)
        count += len(table[0])
        if count < size:
            continue
        joined = join(waiting)
        end = count - count % size
        for start in range(0, end, size):
            yield take(joined, slice(start, start + size))
        waiting, count = [take(joined, slice(end, None))], count - end
    if count:
        yield join(waiting)
