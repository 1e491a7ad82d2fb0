"""Merge regions across neighbouring windows."""

import numpy as np
import shapely

from hook.regions.strips import RegionTable, Strip
from hook.scenes.columns import join, take
from hook.scenes.dissolving import components


class Merger:
    """Merges regions of neighbouring windows, one row of windows at a time.

    Args:
        threshold: Cosine of embeddings above which neighbours are merged.
        explode: Regions are polygons, not multipolygons.
    """

    def __init__(self, threshold: float, explode: bool) -> None:
        self._threshold, self._explode = threshold, explode
        self._above: Strip | None = None
        # Regions that may continue below, and their polygons, which are joined at the end.
        self._open: RegionTable | None = None
        self._pieces: list[list[shapely.Geometry]] = []
        # Index among them of each region of the row above.
        self._open_index = np.empty(0, np.int64)

    def add(self, strip: Strip, last: bool) -> RegionTable:
        """Add the next row of windows, and return the regions that end in it.

        They are in the order of their first windows and tokens; ``last`` marks the last row.
        """
        new = strip.regions._replace(embeddings=strip.regions.embeddings.astype(np.float64))
        held = 0 if self._open is None else len(self._open.tokens)
        links = self._links(strip._replace(regions=new), held)
        table = new if self._open is None else join([self._open, new])
        parts = components(len(table.tokens), links[:, 0], links[:, 1])
        pieces: list[list[shapely.Geometry]] = [[] for _ in range(parts.max(initial=-1) + 1)]
        added = ([polygon] for polygon in new.polygons)
        for part, polygons in zip(parts.tolist(), [*self._pieces, *added], strict=True):
            # Extend the longer list, so that a region of many rows is not copied in each of them.
            short, long = sorted((pieces[part], polygons), key=len)
            long += short
            pieces[part] = long
        merged = _merge(table, parts, len(pieces))
        continues = np.zeros(len(pieces), bool)
        if not last:
            continues[parts[self._continuing(table, strip, held)]] = True
        ended = take(merged, ~continues)
        for number, part in enumerate(np.flatnonzero(~continues).tolist()):
            ended.polygons[number] = _union(pieces[part], self._explode)
        self._open = take(merged, continues)
        self._pieces = [pieces[part] for part in np.flatnonzero(continues).tolist()]
        self._open_index = (np.cumsum(continues) - 1)[parts[held:]]
        self._above = strip
        return ended

    def _links(self, strip: Strip, held: int) -> np.ndarray:
        """Return the pairs (m, 2) to merge of the open regions followed by those of a strip."""
        new = strip.regions.embeddings
        links = [self._similar(new, new, strip.pairs) + held]
        if self._above is not None:
            pairs = _vertical_pairs(self._above.bottom, strip.top)
            above = self._above.regions.embeddings.astype(np.float64)
            pairs = self._similar(above, new, pairs)
            links.append(np.column_stack([self._open_index[pairs[:, 0]], pairs[:, 1] + held]))
        return np.concatenate(links)

    def _continuing(self, table: RegionTable, strip: Strip, held: int) -> np.ndarray:
        """Return the rows of open regions followed by those of a strip that may continue below."""
        return held + np.unique(strip.bottom[strip.bottom >= 0])

    def _similar(self, first: np.ndarray, second: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Return the pairs (m, 2) of rows of two embedding tables above the threshold."""
        one, other = first[pairs[:, 0]], second[pairs[:, 1]]
        lengths = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
        cosines = np.divide(
            (one * other).sum(axis=1), lengths, out=np.zeros(len(pairs)), where=lengths > 0
        )
        return pairs[cosines > self._threshold]


class Joiner(Merger):
    """Joins the parts of regions of the whole scene, which have the same number in every strip.

    Args:
        ends: (N,) row of pixels after the last one that each region may have.
    """

    def __init__(self, ends: np.ndarray) -> None:
        super().__init__(threshold=1, explode=False)
        self._ends = ends

    def _links(self, strip: Strip, held: int) -> np.ndarray:
        open_regions = np.empty(0, np.int32) if self._open is None else self._open.tokens
        _, *pairs = np.intersect1d(open_regions, strip.regions.tokens, return_indices=True)
        return np.column_stack(pairs) + [0, held]

    def _continuing(self, table: RegionTable, strip: Strip, held: int) -> np.ndarray:
        return np.flatnonzero(self._ends[table.tokens] > strip.first_row + strip.height)


def _vertical_pairs(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return the pairs (m, 2) of regions that share an edge between two rows of pixels."""
    both = (above >= 0) & (below >= 0)
    return np.unique(np.column_stack([above[both], below[both]]).astype(np.int64), axis=0)


def _merge(table: RegionTable, parts: np.ndarray, count: int) -> RegionTable:
    """Merge the rows of a table that are parts of one region, except for polygons.

    Args:
        table: n rows.
        parts: (n,) region of each row, numbered in the order of their first rows.
        count: Number of regions.
    """
    _, first, sizes = np.unique(parts, return_index=True, return_counts=True)
    merged = take(table, first)  # single rows stay bit-identical
    joined = np.flatnonzero(sizes > 1)
    if not len(joined):
        return merged._replace(polygons=np.empty(count, object))
    numbers = np.full(count, -1)
    numbers[joined] = np.arange(len(joined))
    rows = np.flatnonzero(numbers[parts] >= 0)
    group = numbers[parts[rows]]
    subset = take(table, rows)

    def total(values: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(joined), *values.shape[1:]), values.dtype)
        np.add.at(sums, group, values)  # in the order of the rows
        return sums

    pixels, counts = total(subset.pixels), total(subset.counts)
    weights = subset.counts[:, np.newaxis]
    means = total(subset.means * weights) / np.maximum(counts, 1)[:, np.newaxis]
    # Variance within the parts plus variance of the parts' means.
    squares = total(subset.squares + weights * (subset.means - means[group]) ** 2)
    embeddings = total(subset.embeddings * subset.pixels[:, np.newaxis]) / pixels[:, np.newaxis]
    for column, values in (
        (merged.pixels, pixels),
        (merged.counts, counts),
        (merged.means, means),
        (merged.squares, squares),
        (merged.votes, total(subset.votes)),
        (merged.scores, total(subset.scores)),
        (merged.embeddings, embeddings),
    ):
        column[joined] = values
    return merged._replace(polygons=np.empty(count, object))


def _union(pieces: list[shapely.Geometry], explode: bool) -> shapely.Geometry:
    """Union polygons of a coverage to one geometry of the layer's type."""
    if len(pieces) == 1:
        return pieces[0]
    union = shapely.coverage_union_all(shapely.get_parts(pieces))
    if not explode and union.geom_type == "Polygon":
        union = shapely.MultiPolygon([union])
    return shapely.normalize(union)
