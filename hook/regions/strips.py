"""Rows of windows: regions with statistics and outlines, stored in a journal."""

import bisect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from rasterio import features

from hook.errors import SceneError
from hook.geo.staging import writing
from hook.regions.plan import RegionPlan, TokenBatch, pool_seeds
from hook.scenes.columns import join
from hook.scenes.dissolving import label, touching
from hook.scenes.grid import Window
from hook.scenes.journal import Journal
from hook.scenes.pipeline import Step
from hook.scenes.polygons import add_junctions

_NODATA = -1
_PADDING = -2


class RegionTable(NamedTuple):
    """Columns of regions."""

    windows: np.ndarray
    """(n,) int64: number of the window."""
    tokens: np.ndarray
    """(n,) int32."""
    pixels: np.ndarray
    """(n,) int64."""
    counts: np.ndarray
    """(n,) int64: pixels where all bands are valid."""
    means: np.ndarray
    """(n, C) float64: means over these, 0 without any."""
    squares: np.ndarray
    """(n, C) float64: sums of squared differences from the mean."""
    votes: np.ndarray
    """(n, K) int64: pixels of each class; 0 with token scores."""
    scores: np.ndarray
    """(n, K) float64: sums of probabilities over all pixels."""
    embeddings: np.ndarray
    """(n, D)."""
    polygons: np.ndarray
    """(n,) shapely geometries in pixel coordinates (column, row)."""


class Strip(NamedTuple):
    """The regions of one row of windows."""

    first_row: int
    height: int
    regions: RegionTable
    top: np.ndarray
    """(width,) int32: region of each pixel of the first row, -1 for none."""
    bottom: np.ndarray
    """(width,) int32: the same of the last row."""
    pairs: np.ndarray
    """(m, 2) int64: regions that share an edge along a seam of windows; only for merging."""


class StripWriter:
    """Converts model output to regions and writes rows of windows to the journal."""

    def __init__(self, plan: RegionPlan, journal: Journal) -> None:
        self._plan, self._journal, self._grid = plan, journal, plan.grid
        self._begin_block()

    def _begin_block(self) -> None:
        self._row: int | None = None
        self._labels: np.ndarray | None = None
        self._parts: list[RegionTable] = []
        self._names: list[str] = []
        self._empty = self._pixels = 0

    def consume(self, step: Step, answer: TokenBatch | None) -> None:
        """Add the windows of a step."""
        number = 0
        for window, covered in step.windows:
            row = bisect.bisect_left(self._grid.row_offs, window.row_off)
            if row != self._row:
                self._finish_row()
                self._row = row
                self._begin_row(self._grid.core(window))
            if covered is None:
                self._empty += 1
                continue
            one = type(answer)(*(None if a is None else a[number] for a in answer))
            self._add(window, covered, step.images[number], step.valid[number], one)
            number += 1
        if step.last:
            self._finish_row()
            self._journal.commit(self._names)
            done = {"empty": self._empty, "pixels": self._pixels, "ranges": step.ranges}
            self._journal.write_text(step.block.note, json.dumps(done))
            self._begin_block()

    def _begin_row(self, core: Window) -> None:
        """Begin a row of windows at its first core."""
        self._labels = np.full((core.height, self._grid.width), _NODATA, np.int32)

    def _add(
        self,
        window: Window,
        covered: np.ndarray,
        image: np.ndarray,
        valid: np.ndarray,
        answer: TokenBatch,
    ) -> None:
        """Add one window; ``answer`` has no batch axis."""
        core = self._grid.core(window)
        top, left = core.row_off - window.row_off, core.col_off - window.col_off
        part = np.s_[..., top : top + core.height, left : left + core.width]
        inside = covered[part]
        if not inside.any():
            return
        labels = np.where(inside, answer.token_ids[part], np.int32(_NODATA))
        labels, tokens = _number_regions(labels, self._plan.explode)
        count, region = len(tokens), labels[inside]
        pixels = np.bincount(region, minlength=count)
        if answer.seeds is None:
            embeddings = answer.embeddings[tokens]
        else:
            seeds = answer.seed_of_pixel[part][inside]
            embeddings = pool_seeds(answer.seeds, seeds, region, count)
        regions = RegionTable(
            np.full(count, self._window_number(window), np.int64),
            tokens.astype(np.int32),
            pixels,
            *measure_bands(image[part], inside & valid[part], labels, count),
            *self._count_classes(answer, part, inside, region, tokens, pixels),
            embeddings,
            np.empty(count, object),
        )
        base = sum(len(earlier.tokens) for earlier in self._parts)
        self._parts.append(regions)
        target = self._labels[:, core.col_off : core.col_off + core.width]
        target[inside] = region + base
        self._pixels += len(region)

    def _window_number(self, window: Window) -> int:
        """Return the number of a window in row-major order."""
        return self._row * len(self._grid.col_offs) + bisect.bisect_left(
            self._grid.col_offs, window.col_off
        )

    def _count_classes(self, answer, part, inside, region, tokens, pixels) -> tuple:
        """Return votes and sums of probabilities (n, K) of the regions of a window."""
        count, k = len(tokens), self._plan.num_classes
        votes, sums = np.zeros((count, k), np.int64), np.zeros((count, k))
        if answer.token_scores is not None:
            sums = answer.token_scores[tokens].astype(np.float64) * pixels[:, np.newaxis]
        elif answer.pixel_scores is not None:
            return count_classes(answer.pixel_scores[part][:, inside], region, count)
        return votes, sums

    def _finish_row(self) -> None:
        """Trace the regions of a row of windows and write it."""
        if self._row is None:
            return
        labels, plan = self._labels, self._plan
        if self._parts:
            regions = join(self._parts)
        else:
            c, k, d = len(plan.bands), plan.num_classes, plan.embed_dims
            shapes = [(0,)] * 4 + [(0, c)] * 2 + [(0, k)] * 2 + [(0, d)]
            kinds = ("i8", "i4", "i8", "i8", "f8", "f8", "i8", "f8", "f4")
            columns = (np.zeros(s, kind) for s, kind in zip(shapes, kinds, strict=True))
            regions = RegionTable(*columns, np.empty(0, object))
        first_row = self._grid.core(self._grid[self._row * len(self._grid.col_offs)]).row_off
        polygons = trace(labels, len(regions.tokens), first_row, plan.explode)
        pairs = np.empty((0, 2), np.int64)
        if plan.merge is not None:
            cores = (self._grid.core(Window(0, col, 0, 0)) for col in self._grid.col_offs[1:])
            seams = np.array([core.col_off for core in cores], np.int64)
            pairs = touching(labels[:, seams - 1], labels[:, seams])
        strip = Strip(first_row, len(labels), regions, labels[0], labels[-1], pairs)
        self._save(_arrays_of(strip._replace(regions=regions._replace(polygons=polygons))))
        self._row, self._labels, self._parts = None, None, []

    def _save(self, arrays: dict[str, np.ndarray]) -> None:
        """Write the file of a row of windows."""
        name = strip_name(self._row)
        with (
            writing(self._journal.path(name)),
            self._journal.partial(name).open("wb") as file,
        ):
            np.savez(file, **arrays)
        self._names.append(name)

    def close(self) -> None:
        """Do nothing: no file is kept open."""


def _number_regions(labels: np.ndarray, explode: bool) -> tuple[np.ndarray, np.ndarray]:
    """Number the regions of a window by token, and parts of a token by their first pixels.

    Args:
        labels: (h, w) int32 token ids, -1 for none.
        explode: Number the 4-connected parts of tokens.

    Returns:
        (h, w) int32 region numbers, -1 for none; and (n,) the token ids of the regions.
    """
    inside = labels >= 0
    if not explode:
        tokens, numbers = np.unique(labels[inside], return_inverse=True)
    else:
        parts, count = label(labels)
        tokens = np.empty(count, np.int64)
        tokens[parts[inside]] = labels[inside]
        order = np.argsort(tokens, kind="stable")
        ranks = np.empty(count, np.int64)
        ranks[order] = np.arange(count)
        tokens, numbers = tokens[order], ranks[parts[inside]]
    found = np.full(labels.shape, _NODATA, np.int32)
    found[inside] = numbers
    return found, tokens


def measure_bands(
    image: np.ndarray, known: np.ndarray, labels: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute band statistics of regions.

    Args:
        image: (C, h, w) native values.
        known: (h, w) bool, valid pixels.
        labels: (h, w) region numbers.
        count: Number of regions n.

    Returns:
        (n,) valid pixels, (n, C) means and (n, C) sums of squared differences from them.
    """
    region = labels[known]
    counts = np.bincount(region, minlength=count)
    means, squares = np.zeros((2, count, len(image)))
    for number, band in enumerate(image):
        values = band[known].astype(np.float64)
        sums = np.bincount(region, values, minlength=count)
        means[:, number] = np.divide(sums, counts, out=np.zeros(count), where=counts > 0)
        # Two passes: a sum of squares would lose the digits of a small variance.
        values -= means[region, number]
        squares[:, number] = np.bincount(region, values * values, minlength=count)
    return counts, means, squares


def count_classes(
    scores: np.ndarray, region: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return votes and sums of probabilities (n, K) of regions.

    Args:
        scores: (K, P) class probabilities of pixels.
        region: (P,) their regions.
        count: Number of regions n.
    """
    k = len(scores)
    votes, sums = np.zeros((count, k), np.int64), np.zeros((count, k))
    if k:
        votes = np.bincount(region * k + scores.argmax(axis=0), minlength=count * k)
    for number, band in enumerate(scores):
        sums[:, number] = np.bincount(region, band, minlength=count)
    return votes.reshape(count, k), sums


def trace(labels: np.ndarray, count: int, first_row: int, explode: bool) -> np.ndarray:
    """Trace the regions of a row of windows.

    Args:
        labels: (h, width) int32 region numbers, -1 for none.
        count: Number of regions n.
        first_row: Row of the scene at which ``labels`` start.
        explode: Each region is one polygon.

    Returns:
        (n,) multipolygons, or polygons with ``explode``, in pixel coordinates of the scene, without
        the vertices of neighbours above and below.
    """
    if not count:
        return np.empty(0, object)
    found = [
        (int(number), shapely.geometry.shape(geometry))
        for geometry, number in features.shapes(labels, mask=labels >= 0, connectivity=4)
    ]
    padded = np.full((labels.shape[0] + 2, labels.shape[1] + 2), _PADDING, np.int32)
    padded[1:-1, 1:-1] = labels
    pieces = np.empty(len(found), object)
    pieces[:] = [polygon for _, polygon in found]
    pieces, _ = add_junctions(pieces, padded)
    pieces = shapely.normalize(shapely.transform(pieces, lambda points: points + [0, first_row]))
    numbers = np.array([number for number, _ in found])
    order = np.argsort(numbers, kind="stable")
    if explode:
        return pieces[order]
    return shapely.normalize(shapely.multipolygons(pieces[order], indices=numbers[order]))


def strip_name(row: int) -> str:
    """Return the file name of a row of windows."""
    return f"row{row:06d}.npz"


def _arrays_of(strip: Strip) -> dict[str, np.ndarray]:
    """Return the arrays to store of a row of windows, with polygons as integer vertices."""
    columns = strip.regions._asdict()
    arrays = strip._asdict() | columns
    del arrays["regions"], arrays["polygons"]
    if len(polygons := columns["polygons"]):
        kind, corners, offsets = shapely.to_ragged_array(polygons)
        arrays["corners"], arrays["kind"] = corners.astype(np.int32), kind.value
        arrays |= {f"offsets{number}": values for number, values in enumerate(offsets)}
    return arrays


def load_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read arrays of a file of the journal, by default all."""
    try:
        with np.load(path) as file:
            return {name: file[name] for name in names or file.files}
    except (OSError, ValueError) as error:
        raise SceneError(
            f"{path}: cannot be read",
            found=error,
            remedy="start again without the files of the interrupted run (--overwrite)",
        ) from error


def _load_strip(path: Path) -> Strip:
    arrays = load_arrays(path)
    polygons = np.empty(0, object)
    if "kind" in arrays:
        offsets = [arrays[name] for name in sorted(arrays) if name.startswith("offsets")]
        polygons = shapely.from_ragged_array(
            shapely.GeometryType(int(arrays["kind"])),
            arrays["corners"].astype(np.float64),
            tuple(offsets),
        )
    columns = [arrays[name] for name in RegionTable._fields[:-1]]
    return Strip(
        int(arrays["first_row"]),
        int(arrays["height"]),
        RegionTable(*columns, polygons),
        *(arrays[name] for name in Strip._fields[3:]),
    )


def read_strips(journal: Journal, plan: RegionPlan) -> Iterator[Strip]:
    """Read the rows of windows."""
    for row in range(len(plan.grid.row_offs)):
        yield _load_strip(journal.path(strip_name(row)))


def with_junctions(strips: Iterator[Strip]) -> Iterator[Strip]:
    """Add the vertices of neighbours above and below to the polygons of rows of windows."""
    above, strip = None, next(strips)
    while strip is not None:
        following = next(strips, None)
        polygons = strip.regions.polygons
        if above is not None:
            polygons = insert_vertices(polygons, strip.first_row, _column_edges(above))
        if following is not None:
            below = strip.first_row + strip.height
            polygons = insert_vertices(polygons, below, _column_edges(following.top))
        above = strip.bottom
        yield strip._replace(regions=strip.regions._replace(polygons=polygons))
        strip = following


def _column_edges(row: np.ndarray) -> np.ndarray:
    """Return the columns of edges between different pixels of a row."""
    return np.flatnonzero(row[1:] != row[:-1]) + 1.0


def insert_vertices(polygons: np.ndarray, row: int, columns: np.ndarray) -> np.ndarray:
    """Add vertices to the edges of polygons on a line between two rows of pixels.

    Args:
        polygons: (n,) geometries of one type in pixel coordinates.
        row: The line.
        columns: Positions of the vertices, ascending.
    """
    if not len(polygons) or not len(columns):
        return polygons
    kind, points, (rings, *outer) = shapely.to_ragged_array(polygons)
    on_line = np.zeros(len(points), bool)
    on_line[:-1] = (points[:-1, 1] == row) & (points[1:, 1] == row)
    on_line[rings[1:] - 1] = False  # last vertex of a ring
    start = points[:, 0]
    end = np.append(start[1:], 0)
    first = np.searchsorted(columns, np.minimum(start, end), side="right")
    stop = np.searchsorted(columns, np.maximum(start, end), side="left")
    number = np.where(on_line, stop - first, 0).clip(min=0)
    edge = np.repeat(np.arange(len(points)), number)
    before = np.concatenate([[0], np.cumsum(number)])
    along = np.arange(len(edge)) - before[edge]
    index = np.where(end[edge] > start[edge], first[edge] + along, stop[edge] - 1 - along)
    new = np.column_stack([columns[index], np.full(len(index), float(row))])
    points = np.insert(points, edge + 1, new, axis=0)
    return shapely.from_ragged_array(kind, points, (rings + before[rings], *outer))
