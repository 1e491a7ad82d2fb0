"""Nested regions of seeds: a hierarchy of merges of neighbouring seeds, cut at any number."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_ROUNDS = 6  # rounds after which pairs of the same regions are reduced to one
_FEW = 2048  # pairs up to which all costs are computed anew
REFINEMENT_STEPS = 4
"""Default number of steps of :func:`refine_borders`."""
# Rows and columns of the eight neighbours of a pixel, around it from the right; even ones touch it.
_RING = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def uncompiled(function: Callable) -> Callable:
    """Leave a function out of torch.compile; the public decorator imports the compiler at once."""
    left_out = torch._disable_dynamo(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        return (left_out if torch.compiler.is_compiling() else function)(*args, **kwargs)

    return call


@dataclass(frozen=True)
class RegionHierarchy:
    """Merges of the seeds of a batch of images, from single seeds to one region.

    The regions of any cut are connected, and those of a coarser cut are unions of those of a finer
    one. Attributes are those of :func:`merge_seeds`.

    Attributes:
        first: (M,) int64 flat index of the seed that stands for a merged region, the smaller of
            the two; by image, and within an image by cost.
        second: (M,) int64 flat index of the seed that stood for the region merged into it.
        cost: (M,) cost of the merge, at least that of the merges within the two regions.
        valid: (B, h, w) bool.
    """

    first: Tensor
    second: Tensor
    cost: Tensor
    valid: Tensor

    @property
    def num_seeds(self) -> Tensor:
        """(B,) int64 number of valid seeds."""
        return self.valid.flatten(1).sum(dim=1)

    @property
    def num_merges(self) -> Tensor:
        """(B,) int64 number of merges."""
        image = self.first // self.valid[0].numel()
        return torch.bincount(image, minlength=len(self.valid))

    def cut(self, count: int | Tensor) -> Tensor:
        """Return the regions at a number of regions.

        Args:
            count: Number of regions, one or (B,). An image with fewer valid seeds has one region
                per seed; one in more connected parts has a region per part.

        Returns:
            (B, h, w) int64 region of each seed, numbered from 0 in the order of their first seeds;
            -1 where not valid.
        """
        return self._apply(self.num_seeds - count)

    def cut_at_cost(self, cost: float | Tensor) -> Tensor:
        """Return the regions after all merges up to a cost, one or (B,); see :meth:`cut`."""
        return self.cut(self.count_at_cost(cost))

    def count_at_cost(self, cost: float | Tensor) -> Tensor:
        """Return the number of regions (B,) after all merges up to a cost, one or (B,)."""
        image = self.first // self.valid[0].numel()
        limit = torch.as_tensor(cost, device=self.cost.device).expand(len(self.valid))
        below = (self.cost <= limit[image]).to(torch.int64)
        return self.num_seeds.index_add(0, image, -below)

    def count_explaining(self, share: float) -> Tensor:
        """Return the smallest number of regions (B,) that explains a share of the variance.

        The costs of merges are the variance within their regions, summed over the seeds.
        """
        image = self.first // self.valid[0].numel()
        sums = self.cost.double().cumsum(0)
        ends = self.num_merges.cumsum(0)
        before = torch.cat([sums.new_zeros(1), sums])[ends - self.num_merges]
        total = torch.cat([sums.new_zeros(1), sums])[ends] - before
        within = sums - before[image] <= (1 - share) * total[image]
        merged = torch.zeros_like(ends).index_add_(0, image, within.to(torch.int64))
        return (self.num_seeds - merged).clamp(min=1)

    def _apply(self, merges: Tensor) -> Tensor:
        """Return the regions after the first (B,) merges of each image."""
        b, h, w = self.valid.shape
        image = self.first // (h * w)
        start = self.num_merges.cumsum(0) - self.num_merges
        rank = torch.arange(len(image), device=image.device) - start[image]
        applied = rank < merges[image]
        parent = torch.arange(b * h * w, device=image.device)
        target = torch.where(applied, self.first, self.second)
        parent[self.second] = target
        for _ in range((h * w).bit_length()):  # chains halve in length
            parent = parent[parent]
        root = (parent == torch.arange(b * h * w, device=image.device)).reshape(b, h * w)
        number = (root & self.valid.flatten(1)).cumsum(dim=1).flatten() - 1
        regions = number[parent].reshape(b, h, w)
        return regions.masked_fill(~self.valid, -1)


@uncompiled  # else NumPy is translated and the rounds are unrolled
@torch.no_grad()
def merge_seeds(
    features: Tensor, valid: Tensor | None = None, sizes: Tensor | None = None
) -> RegionHierarchy:
    """Merge neighbouring seeds into ever larger regions, by Ward's criterion.

    In each round, every two regions that are each other's cheapest neighbour are merged. The cost
    is the increase of the sum of squared distances from the regions' means, n1 n2 / (n1 + n2) times
    the squared distance of the means. The merges, sorted by cost, differ little from those of the
    greedy order (always the cheapest of all), and need 30 to 40 rounds, however many seeds.

    Args:
        features: (B, h, w, D) seeds.
        valid: (B, h, w) bool; invalid seeds belong to no region. None: all are valid.
        sizes: (B, h, w) number of pixels of each seed, for seeds that are regions themselves. None:
            all have size 1.

    Returns:
        The merges. Ties are broken by position, so that other images of the batch, and padding at
        the right and the bottom, change nothing.

    Reference:
        Ward, "Hierarchical grouping to optimize an objective function", Journal of the American
        Statistical Association 58(301), 1963; reciprocal nearest neighbours: Murtagh, "A survey of
        recent advances in hierarchical clustering algorithms", The Computer Journal 26(4), 1983;
        on images: Wei et al., "Superpixel hierarchy", IEEE TIP 27(10), 2018.
    """
    b, h, w, d = features.shape
    if valid is None:
        valid = torch.ones(b, h, w, dtype=torch.bool, device=features.device)
    means = features.detach().reshape(-1, d).to("cpu", torch.float32, copy=True).numpy()
    sizes = torch.ones(b * h * w) if sizes is None else sizes.flatten()
    sizes = sizes.to("cpu", torch.float32, copy=True).numpy()
    pairs = seed_pairs(valid.cpu().numpy())
    merges = merge_graph(means, sizes, np.zeros_like(sizes), pairs)
    first, second, cost = (torch.from_numpy(part).to(features.device) for part in merges)
    # Stable: of merges of equal cost those of earlier rounds stay in front.
    order = cost.argsort(stable=True)
    order = order[(first[order] // (h * w)).argsort(stable=True)]
    return RegionHierarchy(first[order], second[order], cost[order], valid)


def refinement_margin(steps: int = REFINEMENT_STEPS) -> int:
    """Return the distance in pixels from which :func:`refine_borders` may change a pixel.

    Each step visits the pixels in four groups, one after the other, and looks one pixel far.
    """
    return 4 * steps


@torch.no_grad()
def refine_borders(
    regions: Tensor,
    images: Tensor,
    steps: int = REFINEMENT_STEPS,
    smoothness: float = 0.1,
    means: Tensor | None = None,
) -> Tensor:
    """Give pixels at the borders of regions to the neighbouring region of like colour.

    In each step every pixel at a border may change to the region of one of its four neighbours, so
    a border moves by at most ``steps`` pixels or so. The number of regions and of their connected
    parts stays: a pixel that is alone, or holds parts of its region together, is kept.

    Args:
        regions: (B, H, W) integers; negative pixels are in no region, and stay so.
        images: (B, C, H, W) normalised images.
        steps: Number of steps.
        smoothness: Weight of straight borders: a region's cost is the mean over the bands of the
            squared difference from the region's mean, minus this for each of the eight neighbours
            in it.
        means: (B, N, C) means of the regions, for parts of an image with a margin of
            :func:`refinement_margin` that begin at even rows and columns: these change as in the
            whole image. None: the means of their pixels.

    Returns:
        (B, H, W) int64.

    Reference:
        Pixels that can change without changing connectivity: Yokoi, Toriwaki and Fukumura, "An
        analysis of topological properties of digitized binary pictures using local features",
        Computer Graphics and Image Processing 4(1), 1975. Exchange of pixels at borders: Van den
        Bergh et al., "SEEDS: Superpixels extracted via energy-driven sampling", ECCV 2012.
    """
    b, c = images.shape[:2]
    regions = regions.to(torch.int64).clamp(min=-1)
    number = int(regions.max()) + 1 if regions.numel() else 0
    if number < 1:
        return regions
    image = torch.arange(b, device=regions.device)[:, None, None]
    pixels = images.permute(0, 2, 3, 1).float().nan_to_num(posinf=0, neginf=0)
    if means is None:
        known = regions >= 0
        index = (regions + number * image)[known]
        sums = pixels.new_zeros(b * number, c).index_add(0, index, pixels[known])
        means = sums / torch.bincount(index, minlength=b * number).clamp(min=1)[:, None]
        means = means.reshape(b, number, c)
    padded = F.pad(regions, (1, 1, 1, 1), value=-1)  # the result, changed in place
    colours = F.pad(pixels, (0, 0, 1, 1, 1, 1)).flatten(0, 2)
    flat, (rows, columns) = padded.view(-1), padded.shape[1:]
    position = torch.arange(len(flat), device=flat.device).reshape(padded.shape)
    around = torch.tensor([y * columns + x for y, x in _RING], device=flat.device)[:, None]

    def group(row: int, column: int, y: int = 0, x: int = 0) -> tuple[slice, ...]:
        return (
            slice(None),
            slice(1 + row + y, rows - 1 + y, 2),
            slice(1 + column + x, columns - 1 + x, 2),
        )

    # No two of the pixels that change at a time are neighbours, so what is tested holds.
    for _, row, column in itertools.product(range(steps), range(2), range(2)):
        own = padded[group(row, column)]
        border = torch.zeros_like(own, dtype=torch.bool)
        for y, x in _RING[::2]:
            border |= padded[group(row, column, y, x)] != own
        index = position[group(row, column)][border & (own >= 0)]
        near = flat[index + around]
        labels = torch.cat([flat[index][None], near[::2]])
        same = near == labels[0]
        links = sum(same[k] & ~(same[k + 1] & same[(k + 2) % 8]) for k in range(0, 8, 2))
        of = means[index // (rows * columns), labels.clamp(min=0)]
        distances = (colours[index] - of).square().mean(dim=-1)
        agreeing = (near[:, None] == labels).sum(dim=0)
        costs = (distances - smoothness * agreeing).masked_fill(labels < 0, torch.inf)
        best = labels.gather(0, costs.argmin(dim=0)[None])[0]  # of equal costs its own
        flat[index] = torch.where(links == 1, best, labels[0])
    return padded[:, 1:-1, 1:-1].clone()


def seed_pairs(valid: np.ndarray) -> np.ndarray:
    """Return the flat indexes (2, E) of the pairs of neighbours of valid seeds (B, h, w)."""
    index = np.arange(valid.size).reshape(valid.shape)
    pairs = []
    for one, other in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:, :, :-1], np.s_[:, :, 1:]),
    ):
        both = valid[one] & valid[other]
        pairs.append(np.stack([index[one][both], index[other][both]]))
    return np.concatenate(pairs, axis=1)


def merge_graph(
    means: np.ndarray,
    sizes: np.ndarray,
    heights: np.ndarray,
    pairs: np.ndarray,
    frozen: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge the regions of a graph as :func:`merge_seeds` does.

    In NumPy, whose many small steps take half the time of PyTorch's.

    Args:
        means: (N, D) float32 features; overwritten by those of the merged regions.
        sizes: (N,) float32; overwritten likewise.
        heights: (N,) float32, costs of the last merges within the regions, 0 for seeds; overwritten
            likewise.
        pairs: (2, E) neighbouring regions. Of equal costs the first pair's counts.
        frozen: (N,) bool, regions not to be merged, because they have neighbours that the graph
            lacks; nor is one merged whose cheapest neighbour is frozen. None: none is.

    Returns:
        (M,) indexes of the regions kept, the smaller of two, of those merged into them, and the
        costs, by round.
    """
    n = len(means)
    target = np.arange(n)
    grown = np.zeros(n, bool)
    cheapest = np.empty_like(target)
    first, second = pairs
    code = _cost_code(means, sizes, first, second, np.arange(len(first)))
    kept, absorbed, costs = [target[:0]], [target[:0]], [sizes[:0]]
    for number in itertools.count(1):
        cheapest.fill(np.iinfo(np.int64).max)
        np.minimum.at(cheapest, first, code)
        np.minimum.at(cheapest, second, code)
        mutual = (cheapest.take(first) == code) & (cheapest.take(second) == code)
        if frozen is not None:
            mutual &= ~(frozen.take(first) | frozen.take(second))
        mutual = mutual.nonzero()[0]
        if not len(mutual):
            return np.concatenate(kept), np.concatenate(absorbed), np.concatenate(costs)
        one, other = first.take(mutual), second.take(mutual)
        one, other = np.minimum(one, other), np.maximum(one, other)
        added = sizes.take(other)
        sizes[one] = total = sizes.take(one) + added
        mean = means.take(one, axis=0)
        mean += (means.take(other, axis=0) - mean) * (added / total)[:, None]
        means[one] = mean
        cost = (code.take(mutual) >> 32).astype(np.int32).view(np.float32)
        cost = np.maximum(cost, np.maximum(heights.take(one), heights.take(other)))
        heights[one] = cost
        kept.append(one)
        absorbed.append(other)
        costs.append(cost)
        target[other] = one
        first, second = target.take(first), target.take(second)
        between = (first != second).nonzero()[0]
        if number % _ROUNDS == 0:
            between = between[_first_of_pairs(first[between], second[between], n)]
        first, second, code = (part.take(between) for part in (first, second, code))
        if len(code) <= _FEW:
            code = _cost_code(means, sizes, first, second, code & 0xFFFFFFFF)
            continue
        grown.fill(False)
        grown[one] = True
        changed = (grown.take(first) | grown.take(second)).nonzero()[0]
        ends = first.take(changed), second.take(changed)
        code[changed] = _cost_code(means, sizes, *ends, code.take(changed) & 0xFFFFFFFF)


def _cost_code(
    means: np.ndarray, sizes: np.ndarray, first: np.ndarray, second: np.ndarray, number: np.ndarray
) -> np.ndarray:
    """Return the costs of pairs (E,) and their numbers as integers that sort by both."""
    one, other = sizes.take(first), sizes.take(second)
    difference = means.take(first, axis=0) - means.take(second, axis=0)
    cost = np.einsum("ed,ed->e", difference, difference)
    cost *= one * other / (one + other)
    # Bits of floats that are not negative have the order of the floats.
    return cost.view(np.int32).astype(np.int64) << 32 | number


def _first_of_pairs(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """Return the indexes, ascending, of the first of all pairs of the same regions."""
    key = np.minimum(first, second) * n + np.maximum(first, second)
    return np.sort(np.unique(key, return_index=True)[1])
