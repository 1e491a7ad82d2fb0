"""The windows that cover a scene."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

from hook.arguments import bad_argument, check_int, is_number


class Window(NamedTuple):
    """A rectangle inside a scene in pixels: ``height x width`` from ``(row_off, col_off)``."""

    row_off: int
    col_off: int
    height: int
    width: int


class WindowGrid(Sequence[Window]):
    """Square windows that cover a scene, in row-major order.

    Windows start every ``window - overlap`` pixels; the last one of a row or column is shifted back
    to end with the scene. They are computed on demand.

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
        window: Side of a window in pixels.
        overlap: Pixels that neighbours share, or a fraction of the window if below 1.
        step: Windows and cores start at multiples of this number of pixels, of which the window
            must be a multiple; the last window may then end up to ``step - 1`` pixels beyond the
            scene, and is shortened.

    Raises:
        ConfigError: A size is not a positive integer, or the overlap is not below the window.
    """

    def __init__(
        self, height: int, width: int, window: int, overlap: float = 0.25, step: int = 1
    ) -> None:
        self.height = check_int("height", height)
        self.width = check_int("width", width)
        self.window = check_int("window", window)
        self.step = step
        if self.window % step:
            raise bad_argument("window", window, f"a multiple of {step}, the side of a seed")
        self.overlap = overlap_pixels(overlap, self.window) // step * step
        self.stride = self.window - self.overlap
        self.row_offs = _offsets(self.height, self.window, self.stride, step)
        self.col_offs = _offsets(self.width, self.window, self.stride, step)

    def __len__(self) -> int:
        return len(self.row_offs) * len(self.col_offs)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row, col = divmod(index % len(self), len(self.col_offs))
        row_off, col_off = self.row_offs[row], self.col_offs[col]
        return Window(
            row_off,
            col_off,
            min(self.window, self.height - row_off),
            min(self.window, self.width - col_off),
        )

    def core(self, window: Window) -> Window:
        """Return a window without the outer half of its overlaps; cores cover a scene once."""
        side, step = self.window, self.step
        rows = _core(self.row_offs, window.row_off, side, self.height, step)
        columns = _core(self.col_offs, window.col_off, side, self.width, step)
        return Window(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])


def _core(offsets: list[int], offset: int, window: int, size: int, step: int) -> tuple[int, int]:
    """Return start and stop of the core of a window along an axis."""
    index = bisect.bisect_left(offsets, offset)
    first, last = 0, size
    if index:
        first = (offsets[index - 1] + window + offset) // 2 // step * step
    if index + 1 < len(offsets):
        last = (offset + window + offsets[index + 1]) // 2 // step * step
    return first, last


def check_overlap(overlap: float, window: int | None = None) -> float:
    """Check an overlap of windows: a fraction below 1, or an integer of pixels.

    Args:
        overlap: The value.
        window: Side of a window in pixels, which the overlap must be below; None if unknown.

    Raises:
        ConfigError: It is neither, or not below the window.
    """
    if not is_number(overlap) or overlap < 0 or (overlap >= 1 and overlap != int(overlap)):
        expected = "a fraction in [0, 1) or an integer number of pixels"
    elif window is not None and overlap >= max(window, 1):
        expected = f"fewer pixels than the window's {window}"
    else:
        return overlap
    remedy = "use a fraction such as 0.25, or pixels below the window (--overlap)"
    raise bad_argument("overlap", overlap, expected, remedy)


def overlap_pixels(overlap: float, window: int) -> int:
    """Return the overlap of windows in pixels; see :func:`check_overlap` for its values."""
    check_overlap(overlap, window)
    return min(round(overlap * window), window - 1) if overlap < 1 else int(overlap)


def _offsets(size: int, window: int, stride: int, step: int) -> list[int]:
    last = -(-max(size - window, 0) // step) * step
    return [*range(0, last, stride), last]
