"""Groups of rows of windows that are mapped independently and joined afterwards."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from hook.errors import SceneError
from hook.scenes.grid import Window, WindowGrid

WINDOWS_PER_BLOCK = 64
"""Minimum number of windows of a block: an interruption loses little, padding of the last batch
too."""


class Block(NamedTuple):
    """Consecutive rows of windows, and the rows of pixels they cover.

    Where their windows overlap, neighbouring blocks share rows of pixels, the *seams*.
    """

    index: int
    """Number of the block, from 0."""
    first: int
    """First row of windows."""
    last: int
    """Row of windows after the last one."""
    start: int
    """First row of pixels covered."""
    stop: int
    """Row of pixels after the last one covered."""
    top: int
    """Row of pixels after the seam with the block above; ``start`` if there is none."""
    bottom: int
    """First row of pixels of the seam with the block below; ``stop`` if there is none."""

    @property
    def note(self) -> str:
        """Name of the file in the journal that marks the block as done."""
        return f"block{self.index:06d}.done"

    def windows(self, grid: WindowGrid) -> list[Window]:
        """Return the windows of the block in the order of the grid."""
        columns = len(grid.col_offs)
        return grid[self.first * columns : self.last * columns]


class BlockPlan(Sequence[Block]):
    """All blocks of a grid.

    They depend on the arguments only, so that the map is the same for any number of workers and
    after any interruption.

    Args:
        grid: The windows.
        windows: Minimum number of windows of a block.

    Raises:
        SceneError: ``windows`` is not a positive integer.
    """

    def __init__(self, grid: WindowGrid, windows: int = WINDOWS_PER_BLOCK) -> None:
        if windows != int(windows) or windows < 1:
            raise SceneError(
                "windows of a block",
                expected="1 or more",
                found=windows,
                remedy="set block_windows to a positive integer",
            )
        rows = math.ceil(windows / len(grid.col_offs))
        firsts = list(range(0, len(grid.row_offs), rows))
        # Merge a small last block, and blocks so low that three would share a pixel.
        if len(firsts) > 1 and len(grid.row_offs) - firsts[-1] < (rows + 1) // 2:
            firsts.pop()
        number = 1
        while number < len(firsts) - 1:
            above = grid.row_offs[firsts[number] - 1] + grid.window
            if above > grid.row_offs[firsts[number + 1]]:
                firsts.pop(number + 1)
            else:
                number += 1
        self.grid = grid
        self._firsts = [*firsts, len(grid.row_offs)]

    def __len__(self) -> int:
        return len(self._firsts) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        first, last = self._firsts[index], self._firsts[index + 1]
        start, stop = self._start(index), self._stop(index)
        return Block(
            index,
            first,
            last,
            start,
            stop,
            top=self._stop(index - 1) if index else start,
            bottom=self._start(index + 1) if index + 1 < len(self) else stop,
        )

    def _start(self, index: int) -> int:
        return self.grid.row_offs[self._firsts[index]]

    def _stop(self, index: int) -> int:
        return min(
            self.grid.row_offs[self._firsts[index + 1] - 1] + self.grid.window, self.grid.height
        )
