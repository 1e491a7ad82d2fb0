"""Rows of windows in groups that are mapped on their own and joined afterwards."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from hook.errors import SceneError
from hook.scenes.grid import Window, WindowGrid

WINDOWS_PER_BLOCK = 64
"""Least number of windows of a block: few enough to lose to an interruption, and enough that the
last batch, which may be filled up, costs little."""


class Block(NamedTuple):
    """Consecutive rows of windows, and the rows of pixels they cover.

    Neighbouring blocks share pixels where their windows overlap: the *seams*. What lies between
    the seams is finished by the block alone.
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
    """Row of pixels after the seam with the block above; ``start`` where there is none."""
    bottom: int
    """First row of pixels of the seam with the block below; ``stop`` where there is none."""

    @property
    def note(self) -> str:
        """Name of the journal's note that the block is done."""
        return f"block{self.index:06d}.done"

    def windows(self, grid: WindowGrid) -> list[Window]:
        """Give the block's windows in the grid's order."""
        columns = len(grid.col_offs)
        return grid[self.first * columns : self.last * columns]


class BlockPlan(Sequence[Block]):
    """All blocks of a grid, a function of the grid alone.

    Because nothing else decides what is computed together, the map is the same however many
    workers share the blocks and wherever a run was interrupted.

    Args:
        grid: The windows.
        windows: Least number of windows of a block.

    Raises:
        SceneError: ``windows`` is not a positive integer.
    """

    def __init__(self, grid: WindowGrid, windows: int = WINDOWS_PER_BLOCK) -> None:
        if windows != int(windows) or windows < 1:
            raise SceneError(
                "windows of a block",
                expected="1 or more",
                found=windows,
                remedy="give block_windows as a whole number from 1",
            )
        rows = math.ceil(windows / len(grid.col_offs))
        firsts = list(range(0, len(grid.row_offs), rows))
        # The last one, where it is a mere rest, and those so low that three would meet in a pixel.
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
