"""Connected regions of class maps, and dissolving small ones into their neighbours."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from hook.geo.measure import has_areas, pixel_areas
from hook.geo.styles import NO_CLASS
from hook.scenes.statistics import ClassMap

# Sizes of regions are integers, so that their sums do not depend on the order of summation.
_SIZE_STEPS = 1 << 20


def label(classes: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the 4-connected regions of one class in the order of their first pixels.

    They are the connected components of a graph of runs of equal pixels in rows.

    Args:
        classes: (h, w) class indexes, -1 for none.

    Returns:
        (h, w) int32 region numbers, -1 for no class, and the number of regions.
    """
    starts = np.ones(classes.shape, bool)
    starts[:, 1:] = classes[:, 1:] != classes[:, :-1]
    runs = np.cumsum(starts, dtype=np.int32).reshape(classes.shape) - 1
    # The runs of two rows that share columns share the first column of one of them.
    linked = (classes[1:] == classes[:-1]) & (starts[1:] | starts[:-1])
    parts = components(runs[-1, -1] + 1, runs[:-1][linked], runs[1:][linked])
    inside = classes[starts] >= 0
    used = np.zeros(parts.max() + 1, bool)
    used[parts[inside]] = True
    numbers = np.where(used, np.cumsum(used) - 1, NO_CLASS).astype(np.int32)
    return numbers[parts][runs], int(used.sum())


def components(size: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number the connected components of a graph in the order of their first nodes.

    Args:
        size: Number of nodes.
        first: (M,) ends of edges.
        second: (M,) their other ends.

    Returns:
        (size,) the component of each node.
    """
    # Slow to import, and needed for polygons only.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(size, size))
    parts = connected_components(graph, directed=False)[1]
    _, first_nodes = np.unique(parts, return_index=True)
    ranks = np.empty(len(first_nodes), np.int64)
    ranks[np.argsort(first_nodes)] = np.arange(len(first_nodes))
    return ranks[parts]


class Dissolving(NamedTuple):
    """New classes of the regions of a map, numbered strip by strip."""

    new_classes: np.ndarray

    def apply(self, strips: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the strips of the map with their new classes."""
        offset = 0
        for row_off, classes in strips:
            labels, count = label(classes)
            new = np.append(self.new_classes[offset : offset + count], np.int32(NO_CLASS))
            offset += count
            yield row_off, new[labels]  # label -1 takes the last entry


def plan_dissolving(
    source: ClassMap, min_area: float, strip_rows: int | None, progress: bool
) -> Dissolving:
    """Plan the dissolving of the small regions of a map."""
    # Sizes are fractions of the largest pixel in the middle of the map.
    measured = has_areas(source.crs)
    centre = (pixel_areas(source, source.height // 2, 1).max() if measured else 0) or 1.0
    # The margin allows for rounding of areas that are multiples of a pixel.
    smallest = math.ceil(min_area / centre * _SIZE_STEPS * (1 - 1e-9))
    nothing = np.empty((0, 2), np.int64)
    sizes, kinds, seams, edges = [], [], [nothing], [nothing]
    offset, above, above_classes = 0, None, None
    for row_off, classes in source.strips(strip_rows, "finding small regions", progress):
        labels, count = label(classes)
        areas = pixel_areas(source, row_off, len(classes)) if measured else np.ones((1, 1))
        steps = np.broadcast_to(np.rint(areas / centre * _SIZE_STEPS), classes.shape)
        inside = labels >= 0
        # Exact: integers far below 2**53.
        size = np.bincount(labels[inside], steps[inside], minlength=count).astype(np.int64)
        kind = np.zeros(count, np.int32)
        kind[labels[inside]] = classes[inside]
        horizontal = touching(labels[:, :-1], labels[:, 1:])
        vertical = touching(labels[:-1], labels[1:])
        pairs = _unique_pairs(np.concatenate([horizontal, vertical]))
        # Edges between two large regions are not needed.
        edges.append(pairs[(size[pairs] < smallest).any(axis=1)] + offset)
        labels = np.where(inside[[0, -1]], labels[[0, -1]] + np.int64(offset), NO_CLASS)
        if above is not None:
            same = above_classes == classes[0]
            seams.append(touching(above[same], labels[0, same]))
            edges.append(touching(above[~same], labels[0, ~same]))
        above, above_classes = labels[-1], classes[-1]
        offset += count
        sizes.append(size)
        kinds.append(kind)
    sizes, kinds = np.concatenate(sizes), np.concatenate(kinds)
    region = components(offset, *np.concatenate(seams).T)
    count = region.max(initial=-1) + 1
    region_sizes = np.zeros(count, np.int64)
    np.add.at(region_sizes, region, sizes)
    region_kinds = np.zeros(count, np.int32)
    region_kinds[region] = kinds
    edges = region[np.concatenate(edges)]
    return Dissolving(_dissolve(region_sizes, region_kinds, edges, smallest)[region])


def touching(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return pairs of adjacent regions, (M, 2) int64, from arrays of neighbouring pixels."""
    border = (first != second) & (first >= 0) & (second >= 0)
    return _unique_pairs(np.column_stack([first[border], second[border]]).astype(np.int64))


def _unique_pairs(pairs: np.ndarray) -> np.ndarray:
    """Return unique unordered pairs of (M, 2) int64, numbers below 2**31."""
    # Packed into one integer and sorted, which is much faster than np.unique.
    codes = np.sort(pairs.min(axis=1) << 32 | pairs.max(axis=1))
    codes = codes[np.append(True, codes[1:] != codes[:-1])] if len(codes) else codes
    return np.column_stack([codes >> 32, codes & 0xFFFFFFFF])


def _dissolve(
    sizes: np.ndarray, classes: np.ndarray, edges: np.ndarray, smallest: int
) -> np.ndarray:
    """Dissolve small regions into their largest neighbours.

    In each round, small regions are merged into their largest neighbour, transitively. A small
    region larger than all its neighbours is kept: these are merged in this round. Then adjacent
    regions of the same class are joined. Repeats until no small region has a neighbour.

    Args:
        sizes: (N,) int64.
        classes: (N,) int32.
        edges: (M, 2) int64 pairs of neighbours; pairs of two large regions may be missing.
        smallest: Regions below this size are dissolved.

    Returns:
        (N,) int32 new classes.
    """
    root = np.arange(len(sizes))
    sizes = sizes.copy()
    while True:
        edges = _unique_pairs(edges[edges[:, 0] != edges[:, 1]])
        edges = edges[(sizes[edges] < smallest).any(axis=1)]
        if not len(edges):
            return classes[root]
        region, neighbour = np.concatenate([edges, edges[:, ::-1]]).T
        small = sizes[region] < smallest
        region, neighbour = region[small], neighbour[small]
        # The first of equal neighbours; "larger" is a strict order, which excludes cycles.
        order = np.lexsort((-neighbour, sizes[neighbour], region))
        region, neighbour = region[order], neighbour[order]
        last = np.append(region[1:] != region[:-1], True)
        region, neighbour = region[last], neighbour[last]
        larger = sizes[neighbour] > sizes[region]
        larger |= (sizes[neighbour] == sizes[region]) & (neighbour < region)
        target = np.arange(len(sizes))
        target[region[larger]] = neighbour[larger]
        while (pending := target[target] != target).any():
            target[pending] = target[target[pending]]
        moved = np.flatnonzero(target != np.arange(len(sizes)))
        np.add.at(sizes, target[moved], sizes[moved])
        edges = target[edges]
        # Only regions that grew can touch a region of their own class.
        met = edges[classes[edges[:, 0]] == classes[edges[:, 1]]]
        met = met[met[:, 0] != met[:, 1]]
        if len(met):
            nodes, ends = np.unique(met, return_inverse=True)
            parts = components(len(nodes), *ends.reshape(-1, 2).T)
            firsts = nodes[np.unique(parts, return_index=True)[1]][parts]
            joined = nodes != firsts
            np.add.at(sizes, firsts[joined], sizes[nodes[joined]])
            onward = np.arange(len(sizes))
            onward[nodes] = firsts
            target = onward[target]
            edges = onward[edges]
        root = target[root]
