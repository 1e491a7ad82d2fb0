"""Overlapping windows blended into one scene, a few rows at a time."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hook.errors import SceneError
from hook.scenes.grid import Window, WindowGrid

BLENDS = ("hann", "mean")
# Larger states win where windows meet.
_UNREAD, _INVALID, _VALID = 0, 1, 2
# Finished rows leave in small blocks, so that what is derived from them (an argmax is int64) stays
# small beside the accumulators.
_ROWS_PER_BLOCK = 64


class RowBlock(NamedTuple):
    """Finished rows of a scene; the arrays are views that hold only while they are consumed."""

    row_off: int
    scores: np.ndarray
    """(K, n, width) float32, finite where valid."""
    valid: np.ndarray
    """(n, width) bool."""


def blend_profile(window: int, overlap: int, blend: str = "hann") -> np.ndarray:
    """Weights of a window along one axis.

    ``hann`` rises as a squared sine over the overlap and is 1 between, so that regular neighbours
    add up to 1; it is taken at pixel centres and therefore never zero. ``mean`` is 1 throughout.

    Returns:
        (window,) float32, all greater than 0.
    """
    if blend not in BLENDS:
        raise SceneError("blend", expected=" or ".join(BLENDS), found=blend)
    ramp = min(overlap, window // 2)
    profile = np.ones(window)
    if blend == "hann" and ramp:
        rise = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / ramp) ** 2
        profile[:ramp] = rise
        profile[window - ramp :] = rise[::-1]
    return profile.astype(np.float32)


class RowBlender:
    """Weighted mean of the scores of overlapping windows, held for one row of windows only.

    The mean is kept as such and moved towards each new window's score by that window's share of
    the weight so far (West 1979, "Updating mean and variance estimates"). Where all windows agree
    the step is exactly zero, so a constant or purely pixelwise model comes out bit for bit, in
    float32 and for any weights.

    Windows must come in the grid's order. Memory: ``min(window, height) x width x (4 K + 5)``
    bytes.

    Args:
        grid: The windows that will come.
        num_classes: Number of scores per pixel, K.
        emit: Gets every :class:`RowBlock`, from top to bottom.
        blend: ``"hann"`` or ``"mean"``, see :func:`blend_profile`.
    """

    def __init__(
        self,
        grid: WindowGrid,
        num_classes: int,
        emit: Callable[[RowBlock], None],
        blend: str = "hann",
    ) -> None:
        self._grid, self._emit = grid, emit
        profile = blend_profile(grid.window, grid.overlap, blend)
        self._window_weights = np.outer(profile, profile)
        rows = min(grid.window, grid.height)
        self._mean = np.zeros((num_classes, rows, grid.width), np.float32)
        self._weight = np.zeros((rows, grid.width), np.float32)
        self._state = np.full((rows, grid.width), _UNREAD, np.uint8)
        self._row_off = 0

    @property
    def nbytes(self) -> int:
        """Bytes held by the accumulators."""
        return self._mean.nbytes + self._weight.nbytes + self._state.nbytes

    def add(self, window: Window, scores: np.ndarray, covered: np.ndarray) -> None:
        """Blend one window in.

        Args:
            window: Where it lies.
            scores: (K, h, w) with at least the window's rows and columns.
            covered: (window.height, window.width) bool, the pixels that get a class.

        Raises:
            SceneError: Rows that this window finishes are incomplete.
        """
        area = self._enter(window)
        np.maximum(self._state[area], _INVALID + covered.astype(np.uint8), out=self._state[area])
        weight, mean = self._weight[area], self._mean[(slice(None), *area)]
        added = self._window_weights[: window.height, : window.width]
        weight += added
        share = added / weight  # exactly 1 for the first window of a pixel
        step = scores[:, : window.height, : window.width] - mean
        step *= share
        mean += step

    def skip(self, window: Window) -> None:
        """Pass a window without a valid pixel, which the model did not see.

        Raises:
            SceneError: Rows that this window finishes are incomplete.
        """
        area = self._enter(window)
        np.maximum(self._state[area], _INVALID, out=self._state[area])

    def _enter(self, window: Window) -> tuple[slice, slice]:
        """Emit the rows above a window; return its place in the accumulators."""
        self._advance(window.row_off)
        top = window.row_off - self._row_off
        return np.s_[top : top + window.height, window.col_off : window.col_off + window.width]

    def finish(self) -> None:
        """Emit the rows still held.

        Raises:
            SceneError: They are incomplete.
        """
        self._advance(self._grid.height)

    def _advance(self, row: int) -> None:
        """Emit and free all rows above ``row``, which no later window touches."""
        count = row - self._row_off
        if count < 0 or count > len(self._weight):
            raise SceneError(
                "windows out of order",
                expected=f"row offsets from {self._row_off} to {self._row_off + len(self._weight)}",
                found=row,
            )
        for start in range(0, count, _ROWS_PER_BLOCK):
            self._emit_rows(start, min(start + _ROWS_PER_BLOCK, count))
        if not count:
            return
        for rows in (*self._mean, self._weight, self._state):
            # In pieces: numpy buffers the whole of an assignment whose two sides overlap.
            kept = len(rows) - count
            for start in range(0, kept, _ROWS_PER_BLOCK):
                stop = min(start + _ROWS_PER_BLOCK, kept)
                rows[start:stop] = rows[start + count : stop + count]
            rows[kept:] = 0
        self._row_off = row

    def _emit_rows(self, start: int, stop: int) -> None:
        state, scores = self._state[start:stop], self._mean[:, start:stop]
        valid = state == _VALID
        row_off = self._row_off + start
        missed = (state == _UNREAD) | (valid & ~(self._weight[start:stop] > 0))
        if missed.any():
            raise SceneError(
                f"rows {row_off} to {row_off + stop - start - 1}: not every pixel was mapped",
                expected=f"{missed.size} pixels covered by windows",
                found=f"{int(missed.sum())} without one",
            )
        finite = np.isfinite(scores).all(axis=0)
        if not finite[valid].all():
            raise SceneError(
                f"rows {row_off} to {row_off + stop - start - 1}: the model's scores are not "
                "finite",
                expected="finite scores at every valid pixel",
                found=f"{int((valid & ~finite).sum())} pixels with NaN or infinity",
                remedy="check the bands, their scaling and the checkpoint",
            )
        self._emit(RowBlock(row_off, scores, valid))
