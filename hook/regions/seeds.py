"""Seeds of rows of windows, and the table of the regions that they form."""

import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from hook.geo.measure import pixel_areas
from hook.regions.plan import STRIDE, RegionPlan, SeedBatch
from hook.regions.strips import (
    RegionTable,
    Strip,
    StripWriter,
    count_classes,
    load_arrays,
    measure_bands,
    strip_name,
    trace,
)
from hook.scenes.grid import Window
from hook.scenes.journal import Journal
from hook.scenes.vector_files import GridSpec

_THREADS = 2

Result = TypeVar("Result")


class SeedStrip(NamedTuple):
    """The seeds of one row of windows, h x w, and what their pixels have; 0 where they have none.

    Of G grouping features, D features, C bands and K classes.
    """

    first_row: np.ndarray
    """() int64: row of pixels of the scene at which they start."""
    covered: np.ndarray
    """(height, width) bool, pixels with data; stored as bits."""
    grouping: np.ndarray
    """(h', w, G) float32, also of the rows that overlap with other rows of windows; where windows
    of the row overlap, with a linear transition."""
    seeds: np.ndarray
    """(h, w, D) float16."""
    counts: np.ndarray
    """(h, w) uint8: pixels where all bands are valid."""
    means: np.ndarray
    """(h, w, C) float32: means over these."""
    squares: np.ndarray
    """(h, w, C) float32: sums of squared differences from the mean."""
    votes: np.ndarray
    """(h, w, K) uint8: pixels with data of each class."""
    scores: np.ndarray
    """(h, w, K) float32: sums of probabilities over the pixels with data."""
    pixel_scores: np.ndarray
    """(height, width, K) float32 probabilities of the pixels if borders are refined, else empty."""


class RefinedStrip(NamedTuple):
    """The pixels of one row of windows, when the borders of regions follow them."""

    regions: np.ndarray
    """(height, width) int32 region of each pixel, -1 where there is no data."""
    image: np.ndarray
    """(C, height, width) native values."""
    valid: np.ndarray
    """(height, width) bool."""


Refine = Callable[[int, int], Callable[[], RefinedStrip]]
"""Reads some rows of a scene, from a row on, and returns the function that refines them."""


class SeedWriter(StripWriter):
    """Writes the seeds of rows of windows to the journal."""

    def _begin_row(self, core: Window) -> None:
        self._seeds: SeedStrip | None = None

    def _start(self, window: Window, grouping_dims: int) -> SeedStrip:
        plan, width, core = self._plan, self._grid.width, self._grid.core(window)
        grid = -(-core.height // STRIDE), -(-width // STRIDE)
        dims = plan.embed_dims // 2, len(plan.bands), plan.num_classes
        d, c, k = ((*grid, number) for number in dims)
        g = -(-window.height // STRIDE), grid[1], grouping_dims
        p = (core.height if plan.refine else 0, width, plan.num_classes)
        kinds = ("f4", "f2", "u1", "f4", "f4", "u1", "f4", "f4")
        arrays = (
            np.zeros(s, kind) for s, kind in zip((g, d, grid, c, c, k, k, p), kinds, strict=True)
        )
        covered = np.zeros((core.height, width), bool)
        return SeedStrip(np.array(core.row_off), covered, *arrays)

    def _add(
        self,
        window: Window,
        covered: np.ndarray,
        image: np.ndarray,
        valid: np.ndarray,
        answer: SeedBatch,
    ) -> None:
        core = self._grid.core(window)
        top, left = core.row_off - window.row_off, core.col_off - window.col_off
        part = np.s_[..., top : top + core.height, left : left + core.width]
        inside = covered[part]
        strip = self._seeds = self._seeds or self._start(window, answer.grouping.shape[-1])
        whole = strip.grouping[:, window.col_off // STRIDE :][:, : -(-window.width // STRIDE)]
        shared = overlap_before(self._grid.col_offs, window.col_off, self._grid.window)
        blend(whole, answer.grouping[: whole.shape[0], : whole.shape[1]], shared, axis=1)
        if not inside.any():
            return
        strip.covered[:, core.col_off : core.col_off + core.width] = inside
        first, rows = core.col_off // STRIDE, -(-core.height // STRIDE)
        columns = np.s_[:, first : first - (-core.width // STRIDE)]
        known = _cells(inside & valid[part])
        strip.counts[columns] = counts = known.sum(axis=(-3, -1))
        values = np.where(known, _cells(image[part]), 0).astype(np.float64)
        means = values.sum(axis=(-3, -1)) / np.maximum(counts, 1)
        # Two passes: a sum of squares would lose the digits of a small variance.
        values -= np.where(known, means[..., :, np.newaxis, :, np.newaxis], 0)
        strip.means[columns] = np.moveaxis(means, 0, -1)
        strip.squares[columns] = np.moveaxis(np.square(values).sum(axis=(-3, -1)), 0, -1)
        seeds = answer.seeds[top // STRIDE :, left // STRIDE :][:rows, : counts.shape[1]]
        limit = np.finfo(np.float16).max
        strip.seeds[columns] = np.clip(seeds, -limit, limit)
        if answer.pixel_scores is not None:
            scores = np.where(inside, answer.pixel_scores[part], 0)
            if self._plan.refine:
                pixels = strip.pixel_scores[:, core.col_off : core.col_off + core.width]
                pixels[:] = np.moveaxis(scores, 0, -1)
            strip.scores[columns] = np.moveaxis(_cells(scores).sum(axis=(-3, -1)), 0, -1)
            best = np.where(inside, scores.argmax(axis=0), -1)
            for number in range(len(scores)):
                strip.votes[columns][..., number] = _cells(best == number).sum(axis=(-3, -1))
        self._pixels += int(np.count_nonzero(inside))

    def _finish_row(self) -> None:
        if self._row is None:
            return
        first = self._grid[self._row * len(self._grid.col_offs)]
        strip = self._seeds or self._start(first, 0)
        covered = np.packbits(strip.covered, axis=1)
        self._save(strip._replace(covered=covered)._asdict())
        self._row, self._seeds = None, None


def overlap_before(offsets: list[int], offset: int, window: int) -> int:
    """Return the number of seeds that a window at an offset shares with the one before."""
    index = bisect.bisect_left(offsets, offset)
    return max(offsets[index - 1] + window - offset, 0) // STRIDE if index else 0


def blend(target: np.ndarray, values: np.ndarray, shared: int, axis: int) -> None:
    """Write values over a target, with a linear transition over the first ones of an axis.

    Without it, different surroundings in two windows would show as an edge. Equal values are not
    changed by it.
    """
    target, values = np.moveaxis(target, axis, 0), np.moveaxis(values, axis, 0)
    share = ((np.arange(shared, dtype=np.float32) + 0.5) / max(shared, 1))[:, None, None]
    target[:shared] += share * (values[:shared] - target[:shared])
    target[shared:] = values[shared:]


def _cells(pixels: np.ndarray) -> np.ndarray:
    """Return (..., H, W) as (..., h, 4, w, 4), padded with zeros to whole cells."""
    height, width = pixels.shape[-2:]
    missing = (-height % STRIDE, -width % STRIDE)
    if any(missing):
        before = [(0, 0)] * (pixels.ndim - 2)
        pixels = np.pad(pixels, [*before, (0, missing[0]), (0, missing[1])])
    rows, columns = (side // STRIDE for side in pixels.shape[-2:])
    return pixels.reshape(*pixels.shape[:-2], rows, STRIDE, columns, STRIDE)


def read_seeds(journal: Journal, plan: RegionPlan, *names: str) -> Iterator[dict[str, np.ndarray]]:
    """Read columns of :class:`SeedStrip`, by default all, row by row of windows."""
    for row in range(len(plan.grid.row_offs)):
        strip = load_arrays(journal.path(strip_name(row)), names or None)
        if "covered" in strip:
            strip["covered"] = np.unpackbits(strip["covered"], axis=1, count=plan.width) > 0
        yield strip


def area_with_data(journal: Journal, plan: RegionPlan, grid: GridSpec) -> float:
    """Return the area with data in square metres."""
    area = 0.0
    for strip in read_seeds(journal, plan, "first_row", "covered"):
        covered = strip["covered"]
        pixels = pixel_areas(grid, int(strip["first_row"]), len(covered))
        area += float((pixels * covered).sum())
    return area


def seeds_with_data(covered: np.ndarray) -> np.ndarray:
    """Return the seeds (h, w) of which a pixel has data."""
    return _cells(covered).any(axis=(-3, -1))


def in_threads(function: Callable[..., Result], items: Iterable[tuple]) -> Iterator[Result]:
    """Yield the results of a function of tuples of arguments, in order, a few at a time."""
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for item in items:
            waiting.append(pool.submit(function, *item))
            if len(waiting) > _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def tabulate(
    journal: Journal, plan: RegionPlan, regions: np.ndarray, refine: Refine | None = None
) -> Iterator[Strip]:
    """Yield the regions of rows of windows.

    Args:
        journal: Its seeds.
        plan: Options of the run.
        regions: (h, w) int32 region of each seed of the scene, -1 where there is no data.
        refine: Moves their borders to pixels.
    """

    def rows() -> Iterator[tuple]:
        for arrays in read_seeds(journal, plan):
            strip = SeedStrip(**arrays)
            pixels = refine and refine(int(strip.first_row), len(strip.covered))
            yield strip, plan, regions, pixels

    return in_threads(_tabulate, rows())


def _tabulate(
    strip: SeedStrip,
    plan: RegionPlan,
    regions: np.ndarray,
    refined: Callable[[], RefinedStrip] | None,
) -> Strip:
    """Return the regions of a row of windows; see :func:`tabulate`."""
    first_row, (height, width) = int(strip.first_row), strip.covered.shape
    if refined is None:
        numbers, labels = _number(regions[first_row // STRIDE :][: len(strip.counts)])
        parts = _whole_seeds(strip, labels.ravel())
        labels = labels.repeat(STRIDE, axis=0).repeat(STRIDE, axis=1)[:height, :width]
        labels = np.where(strip.covered, labels, np.int32(-1))
    else:
        pixels = refined()
        numbers, labels = _number(pixels.regions)
        parts = _cut_seeds(strip, labels, pixels.image, pixels.valid)
    table = _table(strip, plan, numbers, parts)
    table = table._replace(polygons=trace(labels, len(numbers), first_row, explode=False))
    return Strip(first_row, height, table, labels[0], labels[-1], np.empty((0, 2), np.int64))


def _number(regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers (n,) of regions, and int32 indexes among them, -1 where there is none."""
    known = regions >= 0
    numbers, inverse = np.unique(regions[known], return_inverse=True)
    labels = np.full(regions.shape, -1, np.int32)
    labels[known] = inverse
    return numbers, labels


class _Parts(NamedTuple):
    """Parts of regions of at most a seed each, with the fields of :class:`SeedStrip`."""

    seeds: np.ndarray
    """(S,) index of the seed in its row of windows."""
    regions: np.ndarray
    """(S,) region, from 0 to n - 1."""
    pixels: np.ndarray
    """(S,) pixels with data."""
    counts: np.ndarray
    means: np.ndarray
    squares: np.ndarray
    votes: np.ndarray
    scores: np.ndarray


def _whole_seeds(strip: SeedStrip, regions: np.ndarray) -> _Parts:
    """Return the seeds that are wholly in a region; ``regions`` (h w,) is -1 for others."""
    seeds = np.flatnonzero(regions >= 0)
    pixels = _cells(strip.covered).sum(axis=(-3, -1))
    columns = pixels, strip.counts, strip.means, strip.squares, strip.votes, strip.scores
    columns = (column.reshape(pixels.size, -1)[seeds] for column in columns)
    return _Parts(seeds, regions[seeds], *columns)


def _cut_seeds(
    strip: SeedStrip, labels: np.ndarray, image: np.ndarray, valid: np.ndarray
) -> _Parts:
    """Return the seeds of which regions have all pixels or some.

    Args:
        strip: Seeds of a row of windows.
        labels: (height, width) int32 region of each pixel, from 0 to n - 1, -1 for none.
        image: (C, height, width) native values.
        valid: (height, width) bool.
    """
    labels = _by_seed(labels + 1) - 1
    last = labels.max(axis=1)
    first = np.where(labels < 0, last[:, np.newaxis], labels).min(axis=1)
    whole = _whole_seeds(strip, np.where(first == last, last, -1))
    cut = np.flatnonzero(first < last)
    labels, valid = labels[cut], _by_seed(valid)[cut]
    inside = labels >= 0
    count = int(last.max(initial=0)) + 1
    keys = (np.arange(len(cut))[:, np.newaxis] * count + labels)[inside]
    keys, part = np.unique(keys, return_inverse=True)
    labels[inside] = part
    scores = _by_seed(np.moveaxis(strip.pixel_scores, -1, 0))[:, cut][:, inside]
    found = _Parts(
        cut[keys // count],
        keys % count,
        np.bincount(part, minlength=len(keys)),
        *measure_bands(_by_seed(image)[:, cut], inside & valid, labels, len(keys)),
        *count_classes(scores, part, len(keys)),
    )
    found = found._replace(pixels=found.pixels[:, np.newaxis], counts=found.counts[:, np.newaxis])
    return _Parts(*map(np.concatenate, zip(whole, found, strict=True)))


def _by_seed(pixels: np.ndarray) -> np.ndarray:
    """Return (..., H, W) as (..., h w, 16), the pixels of each seed; 0 beyond the scene."""
    cells = np.swapaxes(_cells(pixels), -3, -2)
    rows, columns = cells.shape[-4:-2]
    return cells.reshape(*pixels.shape[:-2], rows * columns, STRIDE * STRIDE)


def _table(strip: SeedStrip, plan: RegionPlan, numbers: np.ndarray, parts: _Parts) -> RegionTable:
    """Return regions, without polygons, with the statistics of the bands and then of the seeds.

    Args:
        strip: Seeds of a row of windows.
        plan: Options of the run.
        numbers: (n,) numbers of the regions.
        parts: Parts of them.
    """
    order = np.lexsort((parts.seeds, parts.regions))
    parts = _Parts(*(column[order] for column in parts))
    sizes = np.bincount(parts.regions, minlength=len(numbers))
    starts = np.cumsum(sizes) - sizes

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts) if len(starts) else values

    weights = parts.counts.astype("f8")
    pixels = total(weights)
    seeds = strip.seeds.reshape(-1, strip.seeds.shape[-1])[parts.seeds]
    features = np.hstack([parts.means.astype("f8"), seeds.astype("f8")])  # S (C + D)
    means = total(features * weights) / np.maximum(pixels, 1)
    features -= means.repeat(sizes, axis=0)
    features *= features
    features *= weights
    features[:, : parts.squares.shape[-1]] += parts.squares
    return RegionTable(
        _window_numbers(strip, plan, parts.seeds[starts]),
        numbers.astype(np.int32),
        total(parts.pixels.astype("i8"))[:, 0],
        pixels[:, 0].astype(np.int64),
        means,
        total(features),
        total(parts.votes.astype("i8")),
        total(parts.scores.astype("f8")),
        np.empty((len(numbers), 0)),
        np.empty(len(numbers), object),
    )


def _window_numbers(strip: SeedStrip, plan: RegionPlan, seeds: np.ndarray) -> np.ndarray:
    """Return the numbers of the windows whose cores have seeds, given by index in their strip."""
    grid = plan.grid
    columns = len(grid.col_offs)
    lefts = [grid.core(grid[column]).col_off for column in range(columns)]
    tops = [grid.core(grid[row * columns]).row_off for row in range(len(grid.row_offs))]
    row = bisect.bisect_right(tops, int(strip.first_row)) - 1
    column = np.searchsorted(lefts, seeds % strip.counts.shape[1] * STRIDE, side="right") - 1
    return row * columns + column
