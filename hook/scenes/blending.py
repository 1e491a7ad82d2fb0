"""Blending overlapping windows of a scene, a few rows at a time."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np

from hook.errors import SceneError
from hook.scenes.blocks import Block
from hook.scenes.grid import Window, WindowGrid

BLENDS = ("hann", "mean", "crop")
# Larger states win where windows meet.
_UNREAD, _INVALID, _VALID = 0, 1, 2
# Finished rows are emitted in small blocks, so that arrays derived from them (an int64 argmax) are
# small compared with the accumulators.
_ROWS, _PIXELS = 64, 64 * 8192


def rows_at_a_time(width: int) -> int:
    """Return the number of rows that are emitted together."""
    return min(max(_PIXELS // width, 1), _ROWS)


class RowBlock(NamedTuple):
    """Finished rows of a scene; the arrays are views, valid only until the next block."""

    row_off: int
    scores: np.ndarray
    """(K, n, width) float32, finite where valid."""
    valid: np.ndarray
    """(n, width) bool."""


class SeamRows(NamedTuple):
    """Accumulated rows that two blocks of windows share, from one of them."""

    row_off: int
    mean: np.ndarray
    """(K, n, width) float32 weighted mean of the scores."""
    weight: np.ndarray
    """(n, width) float32 weight of the mean, 0 where no window of the block had data."""
    state: np.ndarray
    """(n, width) uint8: unread, invalid or valid."""


def blend_profile(window: int, overlap: int, blend: str = "hann") -> np.ndarray:
    """Return the weights of a window along one axis, (window,) float32, all greater than 0.

    ``hann`` is a squared sine over the overlap and 1 in between, so that regular neighbours sum
    to 1; it is sampled at pixel centres and never zero. ``mean`` is 1, and so is ``crop``, which
    uses one window per pixel, see :meth:`WindowGrid.core`.
    """
    if blend not in BLENDS:
        remedy = "choose one of these (--blend)"
        raise SceneError("blend", expected=" or ".join(BLENDS), found=blend, remedy=remedy)
    ramp = min(overlap, window // 2)
    profile = np.ones(window)
    if blend == "hann" and ramp:
        rise = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / ramp) ** 2
        profile[:ramp] = rise
        profile[window - ramp :] = rise[::-1]
    return profile.astype(np.float32)


class RowBlender:
    """Weighted mean of the scores of overlapping windows, held for one row of windows only.

    An incremental weighted mean (West 1979, "Updating mean and variance estimates"): where all
    windows agree, updates are exactly zero, so a constant or pixelwise model is reproduced bit for
    bit in float32, for any weights.

    Windows must be added in the order of the grid. Memory: ``min(window, height) x width x (4 K +
    5)`` bytes.

    Args:
        grid: The windows.
        num_classes: Number of scores per pixel, K.
        emit: Called with each :class:`RowBlock`, from top to bottom.
        blend: ``"hann"``, ``"mean"`` or ``"crop"``, see :func:`blend_profile`.
        block: Only the windows of this block are added; None for all.
        emit_seam: Called with the rows that the block shares with its neighbours.
    """

    def __init__(
        self,
        grid: WindowGrid,
        num_classes: int,
        emit: Callable[[RowBlock], None],
        blend: str = "hann",
        block: Block | None = None,
        emit_seam: Callable[[SeamRows], None] | None = None,
    ) -> None:
        self._grid, self._emit, self._emit_seam = grid, emit, emit_seam
        self._start, self._stop = (0, grid.height) if block is None else (block.start, block.stop)
        self._seams = (self._start, self._stop) if block is None else (block.top, block.bottom)
        self._crop = blend == "crop"
        profile = blend_profile(grid.window, grid.overlap, blend)
        self._window_weights = np.outer(profile, profile)
        rows = min(grid.window, self._stop - self._start)
        self._mean = np.zeros((num_classes, rows, grid.width), np.float32)
        self._weight = np.zeros((rows, grid.width), np.float32)
        self._state = np.full((rows, grid.width), _UNREAD, np.uint8)
        self._row_off = self._start

    notes: ClassVar[dict] = {}
    """What is noted of a block besides: nothing."""

    @property
    def nbytes(self) -> int:
        """Bytes held by the accumulators."""
        return self._mean.nbytes + self._weight.nbytes + self._state.nbytes

    def add(self, window: Window, scores: np.ndarray, covered: np.ndarray) -> None:
        """Blend one window.

        Args:
            window: Position in the scene.
            scores: (K, h, w) with at least the rows and columns of the window.
            covered: (window.height, window.width) bool, the pixels that get a class.

        Raises:
            SceneError: Rows that this window finishes are incomplete.
        """
        area, part = self._enter(window)
        state = _INVALID + covered[part].astype(np.uint8)
        np.maximum(self._state[area], state, out=self._state[area])
        weight, mean = self._weight[area], self._mean[(slice(None), *area)]
        added = self._window_weights[part]
        weight += added
        share = added / weight  # exactly 1 for the first window of a pixel
        step = scores[(slice(None), *part)] - mean
        step *= share
        mean += step

    def skip(self, window: Window) -> None:
        """Add a window without valid pixels, which has no scores; errors as :meth:`add`."""
        area, _ = self._enter(window)
        np.maximum(self._state[area], _INVALID, out=self._state[area])

    def _enter(self, window: Window) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Emit the rows above a window; return its slices of the accumulators and of its scores."""
        self._advance(window.row_off)
        part = self._grid.core(window) if self._crop else window
        top = part.row_off - self._row_off
        inner = part.row_off - window.row_off, part.col_off - window.col_off
        return (
            np.s_[top : top + part.height, part.col_off : part.col_off + part.width],
            np.s_[inner[0] : inner[0] + part.height, inner[1] : inner[1] + part.width],
        )

    def finish(self) -> None:
        """Emit the remaining rows; errors as :meth:`add`."""
        self._advance(self._stop)

    def _advance(self, row: int) -> None:
        """Emit and free all rows above ``row``, which later windows do not cover."""
        count = row - self._row_off
        if count < 0 or count > len(self._weight):
            raise SceneError(
                "windows out of order",
                expected=f"row offsets from {self._row_off} to {self._row_off + len(self._weight)}",
                found=row,
                remedy="add the windows in the order of the grid",
            )
        block = rows_at_a_time(self._grid.width)
        for start in range(0, count, block):
            self._emit_rows(start, min(start + block, count))
        if not count:
            return
        for rows in (*self._mean, self._weight, self._state):
            # In pieces: NumPy copies the source of an assignment whose sides overlap.
            kept = len(rows) - count
            for start in range(0, kept, block):
                stop = min(start + block, kept)
                rows[start:stop] = rows[start + count : stop + count]
            rows[kept:] = 0
        self._row_off = row

    def _emit_rows(self, start: int, stop: int) -> None:
        """Emit accumulated rows, seams separately."""
        top, bottom = (min(max(row - self._row_off, start), stop) for row in self._seams)
        for first, last, is_seam in (
            (start, top, True),
            (top, bottom, False),
            (bottom, stop, True),
        ):
            if first == last:
                continue
            rows = SeamRows(
                self._row_off + first,
                self._mean[:, first:last],
                self._weight[first:last],
                self._state[first:last],
            )
            if is_seam:
                self._emit_seam(rows)
            else:
                self._emit(finish_rows(rows))


def finish_rows(rows: SeamRows) -> RowBlock:
    """Check and convert accumulated rows.

    Raises:
        SceneError: A pixel was not read, or its scores are not finite.
    """
    row_off, scores, weight, state = rows
    valid = state == _VALID
    missed = (state == _UNREAD) | (valid & ~(weight > 0))
    if missed.any():
        raise SceneError(
            f"rows {row_off} to {row_off + len(state) - 1}: not every pixel was mapped",
            expected=f"{missed.size} pixels covered by windows",
            found=f"{int(missed.sum())} not covered",
            remedy="choose a different --window or --overlap: the grid must cover every pixel",
        )
    finite = np.isfinite(scores).all(axis=0)
    if not finite[valid].all():
        raise SceneError(
            f"rows {row_off} to {row_off + len(state) - 1}: the model's scores are not finite",
            expected="finite scores at every valid pixel",
            found=f"{int((valid & ~finite).sum())} pixels with NaN or infinity",
            remedy="check the bands, their scaling and the checkpoint",
        )
    return RowBlock(row_off, scores, valid)


def join_seam(above: SeamRows, below: SeamRows) -> SeamRows:
    """Blend the rows that two blocks share, as :class:`RowBlender` does.

    Args:
        above: The rows from the upper block.
        below: The same rows from the lower block.
    """
    if above.row_off != below.row_off or above.mean.shape != below.mean.shape:
        raise SceneError(
            "seams of blocks do not match",
            expected=f"{above.mean.shape} from row {above.row_off}",
            found=f"{below.mean.shape} from row {below.row_off}",
            remedy="discard the unfinished map (--overwrite) and map again",
        )
    weight = above.weight + below.weight
    share = np.divide(below.weight, weight, out=np.zeros_like(weight), where=weight > 0)
    mean = above.mean + (below.mean - above.mean) * share
    return SeamRows(above.row_off, mean, weight, np.maximum(above.state, below.state))
