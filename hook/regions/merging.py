"""Regions of neighbouring windows that are one."""

import numpy as np
import shapely

from hook.regions.strips import RegionTable, Strip
from hook.scenes.columns import join, take
from hook.scenes.dissolving import components


class Merger:
    """Joins regions of neighbouring windows, row of windows by row of windows.

    Args:
        threshold: Cosine of embeddings above which neighbours are joined.
        explode: Regions are polygons, not multipolygons.
    """

    def __init__(self, threshold: float, explode: bool) -> None:
        self._threshold, self._explode = threshold, explode
        self._above: Strip | None = None
        # Regions that may go on below, and the polygons of each, which are joined at the end.
        self._open: RegionTable | None = None
        self._pieces: list[list[shapely.Geometry]] = []
        # Which of them each region of the row above belongs to.
        self._places = np.empty(0, np.int64)

    def add(self, strip: Strip, last: bool) -> RegionTable:
        """Take the next row of windows.

        Args:
            strip: The row.
            last: There is none below it.

        Returns:
            The regions that end in it, in the order of their first windows and tokens.
        """
        new = strip.regions._replace(embeddings=strip.regions.embeddings.astype(np.float64))
        held = 0 if self._open is None else len(self._open.tokens)
        links = [self._alike(new.embeddings, new.embeddings, strip.pairs) + held]
        if self._above is not None:
            pairs = _vertical_pairs(self._above.bottom, strip.top)
            above = self._above.regions.embeddings.astype(np.float64)
            pairs = self._alike(above, new.embeddings, pairs)
            links.append(np.column_stack([self._places[pairs[:, 0]], pairs[:, 1] + held]))
        table = new if self._open is None else join([self._open, new])
        links = np.concatenate(links)
        parts = components(len(table.tokens), links[:, 0], links[:, 1])
        pieces: list[list[shapely.Geometry]] = [[] for _ in range(parts.max(initial=-1) + 1)]
        added = ([polygon] for polygon in new.polygons)
        for part, polygons in zip(parts.tolist(), [*self._pieces, *added], strict=True):
            # Longer lists stay, or a region of many rows would be copied in each of them.
            short, long = sorted((pieces[part], polygons), key=len)
            long += short
            pieces[part] = long
        merged = _merge(table, parts, len(pieces))
        goes_on = np.zeros(len(pieces), bool)
        if not last:
            goes_on[parts[held + np.unique(strip.bottom[strip.bottom >= 0])]] = True
        ended = take(merged, ~goes_on)
        for number, part in enumerate(np.flatnonzero(~goes_on).tolist()):
            ended.polygons[number] = _union(pieces[part], self._explode)
        self._open = take(merged, goes_on)
        self._pieces = [pieces[part] for part in np.flatnonzero(goes_on).tolist()]
        self._places = (np.cumsum(goes_on) - 1)[parts[held:]]
        self._above = strip
        return ended

    def _alike(self, first: np.ndarray, second: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Those pairs (m, 2) of rows of two tables of embeddings that agree."""
        one, other = first[pairs[:, 0]], second[pairs[:, 1]]
        lengths = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
        cosines = np.divide(
            (one * other).sum(axis=1), lengths, out=np.zeros(len(pairs)), where=lengths > 0
        )
        return pairs[cosines > self._threshold]


def _vertical_pairs(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Pairs (m, 2) of regions that share an edge between two rows of pixels."""
    both = (above >= 0) & (below >= 0)
    return np.unique(np.column_stack([above[both], below[both]]).astype(np.int64), axis=0)


def _merge(table: RegionTable, parts: np.ndarray, count: int) -> RegionTable:
    """Join the rows of a table that are parts of one region; polygons are not joined.

    Args:
        table: n rows.
        parts: (n,) which region each row belongs to, numbered in the order of their first rows.
        count: Number of regions.
    """
    _, first, sizes = np.unique(parts, return_index=True, return_counts=True)
    merged = take(table, first)  # what stands alone stays as it is, to the last digit
    joined = np.flatnonzero(sizes > 1)
    if not len(joined):
        return merged._replace(polygons=np.empty(count, object))
    numbers = np.full(count, -1)
    numbers[joined] = np.arange(len(joined))
    rows = np.flatnonzero(numbers[parts] >= 0)
    group = numbers[parts[rows]]
    some = take(table, rows)

    def total(values: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(joined), *values.shape[1:]), values.dtype)
        np.add.at(sums, group, values)  # in the order of the rows
        return sums

    pixels, counts = total(some.pixels), total(some.counts)
    weights = some.counts[:, np.newaxis]
    means = total(some.means * weights) / np.maximum(counts, 1)[:, np.newaxis]
    # Of all pixels: the spread within the parts, and that of the parts' means.
    squares = total(some.squares + weights * (some.means - means[group]) ** 2)
    embeddings = total(some.embeddings * some.pixels[:, np.newaxis]) / pixels[:, np.newaxis]
    for column, values in (
        (merged.pixels, pixels),
        (merged.counts, counts),
        (merged.means, means),
        (merged.squares, squares),
        (merged.votes, total(some.votes)),
        (merged.scores, total(some.scores)),
        (merged.embeddings, embeddings),
    ):
        column[joined] = values
    return merged._replace(polygons=np.empty(count, object))


def _union(pieces: list[shapely.Geometry], explode: bool) -> shapely.Geometry:
    """Join polygons of a coverage into one geometry of the layer's type."""
    if len(pieces) == 1:
        return pieces[0]
    union = shapely.coverage_union_all(shapely.get_parts(pieces))
    if not explode and union.geom_type == "Polygon":
        union = shapely.MultiPolygon([union])
    return shapely.normalize(union)
