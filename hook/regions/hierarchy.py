"""Regions of a whole scene: a hierarchy of merges of its seeds, in blocks of bounded memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hook.geo.staging import writing
from hook.progress import progress_bar
from hook.regions.plan import STRIDE, RegionPlan
from hook.regions.seeds import blend, in_threads, overlap_before, read_seeds, seeds_with_data
from hook.regions.strips import load_arrays
from hook.scenes.dissolving import touching
from hook.scenes.journal import Journal
from hook.tokenizers.hierarchy import merge_graph, seed_pairs

_BLOCK_SEEDS = 1 << 18  # at about 300 bytes each
_BLOCK_ROWS = 64  # at least, so that few seeds are at the border of a block


class _Merges(NamedTuple):
    """Merges of the seeds of a block, or of the nodes of a graph."""

    first: np.ndarray
    """(M,) int32 first seed of a region."""
    second: np.ndarray
    """(M,) int32 first seed of the region merged into it."""
    costs: np.ndarray
    """(M,) float32, at least those of the merges within the two."""

    def roots(self, count: int, applied: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the first seed of the region of each of the seeds after some of the merges."""
        parent = np.arange(count)
        parent[self.second[applied]] = self.first[applied]
        while ((above := parent[parent]) != parent).any():
            parent = above
        return parent


class _Cut(NamedTuple):
    """The merges of a scene to apply: all below a cost, and the first of those that have it."""

    cost: float
    equal: int

    def apply_to(self, costs: np.ndarray) -> tuple[np.ndarray, "_Cut"]:
        """Return which merges (M,) bool of a block are applied, and the cut of the next ones."""
        equal = costs == self.cost
        equal &= np.cumsum(equal) <= self.equal
        return (costs < self.cost) | equal, self._replace(equal=self.equal - equal.sum())


class _Block(NamedTuple):
    """A block of seeds, merged as far as other blocks do not matter."""

    merges: _Merges
    known: np.ndarray
    """(h, w) bool, seeds with data."""
    left: np.ndarray
    """(n,) first seeds of the regions left, the nodes of a graph."""
    nodes: tuple[np.ndarray, ...]
    """Their mean features (n, G), sizes and costs of the last merges within (n,)."""
    pairs: np.ndarray
    """(m, 2) nodes that are neighbours."""
    top: np.ndarray
    """(w,) nodes of the first row, -1 for none."""
    bottom: np.ndarray
    """(w,) nodes of the last row, -1 for none."""


def _merge_block(features: np.ndarray, known: np.ndarray, first: bool, last: bool) -> _Block:
    """Merge a block of seeds.

    Args:
        features: (h, w, G) float32; overwritten.
        known: (h, w) bool, seeds with data.
        first: There is no block above.
        last: There is no block below.
    """
    means = features.reshape(known.size, -1)
    sizes, heights = np.ones(known.size, np.float32), np.zeros(known.size, np.float32)
    frozen = np.zeros(known.shape, bool)
    frozen[:1], frozen[-1:] = not first, not last
    pairs = seed_pairs(known[None])
    one, other, costs = merge_graph(means, sizes, heights, pairs, frozen.flatten())
    merges = _Merges(one.astype(np.int32), other.astype(np.int32), costs)
    left = known.flatten()
    left[other] = False
    left = np.flatnonzero(left)
    nodes = np.full(known.size, -1)
    nodes[left] = np.arange(len(left))
    nodes = nodes[merges.roots(known.size)]
    pairs = touching(*nodes[pairs])
    rows = nodes.reshape(known.shape)
    table = means[left], sizes[left], heights[left]
    return _Block(merges, known, left, table, pairs, rows[0], rows[-1])


class _Graph:
    """What blocks of seeds leave: regions as nodes, and pairs of neighbours."""

    def __init__(self) -> None:
        self.count = 0
        self._nodes: list[tuple[np.ndarray, ...]] = []
        self._pairs: list[np.ndarray] = []
        self._bottom: np.ndarray | None = None

    def add(self, block: _Block) -> None:
        """Add the next block."""
        self._nodes.append(block.nodes)
        self._pairs.append(block.pairs + self.count)
        top, bottom = (np.where(r >= 0, r + self.count, -1) for r in (block.top, block.bottom))
        if self._bottom is not None:
            self._pairs.append(touching(self._bottom, top))
        self._bottom = bottom
        self.count += len(block.left)

    def merge(self) -> _Merges:
        """Merge the nodes."""
        means, sizes, heights = (np.concatenate(of) for of in zip(*self._nodes, strict=True))
        pairs = np.ascontiguousarray(np.concatenate(self._pairs).T)
        return _Merges(*merge_graph(means, sizes, heights, pairs))


def merge_scene(
    journal: Journal, plan: RegionPlan, count: int | None, show: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the hierarchy of merges of the seeds of a scene, see :func:`merge_seeds`.

    Seeds are merged in blocks of rows, except for those at the border of a block and regions that
    are most similar to these. What all blocks leave is one graph, which is merged in turn. The
    blocks depend on the width of the scene only, not on the windows.

    Args:
        journal: Seeds of the scene, see :class:`hook.regions.seeds.SeedWriter`; receives the merges
            and the regions.
        plan: Options of the run.
        count: Number of regions; None cuts at the cost ``plan.scale``. A scene in more parts has a
            region per part.
        show: Show a progress bar.

    Returns:
        (h, w) int32 region of each seed, a file in memory, numbered from 0 in the order of their
        first seeds, -1 where there is no data; and (N,) the row of pixels after each region.
    """
    size = -(-plan.height // STRIDE), -(-plan.width // STRIDE)
    graph, files = _Graph(), []
    highest, seeds, total = np.empty(0, np.float32), 0, 0
    bar = progress_bar(total=size[0], desc="merging seeds", unit="row", show=show)
    with bar:
        for block in in_threads(_merge_block, _read_blocks(journal, plan, size)):
            graph.add(block)
            files.append(journal.path(f"merges{len(files):06d}.npz"))
            with writing(files[-1]):
                arrays = block.merges._asdict()
                np.savez(files[-1], **arrays, known=block.known, left=block.left)
            seeds, total = seeds + block.known.sum(), total + len(block.merges.costs)
            highest = _largest(highest, block.merges.costs, count)
            bar.update(len(block.known))
        top = graph.merge()
    highest, total = _largest(highest, top.costs, count), total + len(top.costs)
    cut = _Cut(plan.scale, total)
    if count is not None:
        applied = min(max(seeds - count, 0), total)
        cost = np.sort(highest)[applied - total] if applied < total else np.inf
        costs = [*(load_arrays(file, ["costs"])["costs"] for file in files), top.costs]
        cut = _Cut(cost, applied - sum(int((part < cost).sum()) for part in costs))
    return _label(journal, files, graph, top, cut, size)


def _largest(costs: np.ndarray, more: np.ndarray, count: int | None) -> np.ndarray:
    """Return the ``count`` largest of two arrays of costs; none if it is None."""
    costs = np.concatenate([costs, more])[: None if count else 0]
    return costs if count is None or len(costs) <= count else np.partition(costs, -count)[-count:]


def _read_blocks(
    journal: Journal, plan: RegionPlan, size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray, bool, bool]]:
    """Yield the arguments of :func:`_merge_block` of blocks of rows."""
    rows, row = max(_BLOCK_ROWS, _BLOCK_SEEDS // size[1]), 0
    known = grouping = np.empty((0, size[1], 0))
    offsets = plan.grid.row_offs
    strips = read_seeds(journal, plan, "covered", "grouping")
    ends = [*(offset // STRIDE for offset in offsets[1:]), size[0]]  # rows not shared any more
    for offset, stop, strip in zip(offsets, ends, strips, strict=True):
        new, found = seeds_with_data(strip["covered"]), strip["grouping"]
        known = np.concatenate([known, new]) if len(known) else new
        dims = max(grouping.shape[-1], found.shape[-1])  # none in rows of windows without data
        start = offset // STRIDE - row
        wider = np.zeros((start + len(found), size[1], dims), np.float32)
        wider[: len(grouping), :, : grouping.shape[-1]] = grouping
        if found.shape[-1]:
            shared = overlap_before(offsets, offset, plan.window)
            blend(wider[start:], found, min(shared, len(found)), axis=0)
        grouping = wider
        while stop - row >= rows or stop == size[0] > row:
            end = min(row + rows, stop)
            yield grouping[: end - row].copy(), known[: end - row], row == 0, end == size[0]
            known, grouping, row = known[end - row :], grouping[end - row :], end


def _label(
    journal: Journal,
    files: list[Path],
    graph: _Graph,
    top: _Merges,
    cut: _Cut,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Number the regions of all blocks after a cut; see :func:`merge_scene`."""
    path = journal.path("regions.npy")
    with writing(path):
        regions = np.lib.format.open_memmap(path, "w+", np.int32, size)
    # Of equal costs those of the graph come last.
    equal = sum(int((load_arrays(file, ["costs"])["costs"] == cut.cost).sum()) for file in files)
    applied, _ = cut._replace(equal=cut.equal - equal).apply_to(top.costs)
    root_of_node = top.roots(graph.count, applied)
    number_of_node = np.full(graph.count, -1)
    ends, row, node = np.empty(0, np.int64), 0, 0
    for file in files:
        block = load_arrays(file)
        known, left = block["known"], block["left"]
        merges = _Merges(*(block[name] for name in _Merges._fields))
        applied, cut = cut.apply_to(merges.costs)
        root = merges.roots(known.size, applied)
        first = known.flatten() & (root == np.arange(known.size))
        first[left] &= root_of_node[node : node + len(left)] == node + np.arange(len(left))
        numbers = np.full(known.size, -1)
        numbers[first] = len(ends) + np.arange(first.sum())
        own = first[left]
        number_of_node[node : node + len(left)][own] = numbers[left[own]]
        numbers[left] = number_of_node[root_of_node[node : node + len(left)]]
        labels = np.where(known, numbers[root].reshape(known.shape), -1)
        regions[row : row + len(known)] = labels
        ends = np.concatenate([ends, np.zeros(first.sum(), np.int64)])
        # Of several rows of a region the last one remains.
        ends[labels[known]] = STRIDE * (row + 1 + np.nonzero(known)[0])
        row, node = row + len(known), node + len(left)
    return regions, ends
