"""Nested regions of seeds: a hierarchy of merges of neighbouring seeds, cut at any number."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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
        image = self.first // self.valid[0].numel()
        limit = torch.as_tensor(cost, device=self.cost.device).expand(len(self.valid))
        below = (self.cost <= limit[image]).to(torch.int64)
        return self._apply(torch.zeros_like(self.num_seeds).index_add_(0, image, below))

    def count_at_cost(self, cost: float | Tensor) -> Tensor:
        """Return the number of regions (B,) after all merges up to a cost, one or (B,)."""
        image = self.first // self.valid[0].numel()
        limit = torch.as_tensor(cost, device=self.cost.device).expand(len(self.valid))
        below = (self.cost <= limit[image]).to(torch.int64)
        return self.num_seeds.index_add(0, image, -below)

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
    b, h, w, _ = features.shape
    if valid is None:
        valid = torch.ones(b, h, w, dtype=torch.bool, device=features.device)
    means = features.flatten(0, 2).float().clone()
    size = torch.ones(b * h * w, device=means.device) if sizes is None else sizes.flatten().float()
    index = torch.arange(b * h * w, device=means.device).reshape(b, h, w)
    pairs = []
    for axis in (1, 2):
        length = (h, w)[axis - 1] - 1
        one, other = index.narrow(axis, 0, length), index.narrow(axis, 1, length)
        both = valid.narrow(axis, 0, length) & valid.narrow(axis, 1, length)
        pairs.append(torch.stack([one[both], other[both]]))
    first, second, cost = _merge_graph(means, size.clone(), torch.cat(pairs, dim=1))
    # Stable: of merges of equal cost those of earlier rounds stay in front.
    order = cost.argsort(stable=True)
    order = order[(first[order] // (h * w)).argsort(stable=True)]
    return RegionHierarchy(first[order], second[order], cost[order], valid)


def _merge_graph(means: Tensor, size: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Merge all regions of a graph; return those kept, those absorbed, and the costs.

    Args:
        means: (N, D) features; overwritten.
        size: (N,) sizes; overwritten.
        pairs: (2, E) neighbouring regions, the smaller index first.
    """
    n = len(means)
    height = torch.zeros_like(size)
    everyone = torch.arange(n, device=means.device)
    key = (pairs[0] * n + pairs[1]).sort().values
    kept, absorbed, costs = [], [], []
    while len(key):
        first, second = key // n, key % n
        weight = size[first] * size[second] / (size[first] + size[second])
        cost = weight * (means[first] - means[second]).square().sum(dim=1)
        # The cheapest pair of each region, the first of equal ones; pairs are sorted.
        cheapest = torch.full_like(size, torch.inf)
        cheapest = cheapest.scatter_reduce_(0, first, cost, "amin")
        cheapest = cheapest.scatter_reduce_(0, second, cost, "amin")
        number = torch.arange(len(key), device=key.device)
        best = torch.full((n,), len(key), device=key.device)
        for end in (first, second):
            at = torch.where(cost == cheapest[end], number, len(key))
            best = best.scatter_reduce_(0, end, at, "amin")
        mutual = (best[first] == number) & (best[second] == number)
        one, other = first[mutual], second[mutual]
        total = size[one] + size[other]
        share = (size[other] / total)[:, None]
        means[one] = means[one].lerp(means[other], share)
        size[one] = total
        height[one] = torch.maximum(cost[mutual], torch.maximum(height[one], height[other]))
        kept.append(one)
        absorbed.append(other)
        costs.append(height[one])
        target = everyone.clone()
        target[other] = one
        first, second = target[first], target[second]
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        key = (low * n + high)[low != high].unique()
    if not kept:
        none = everyone[:0]
        return none, none, size[:0]
    return torch.cat(kept), torch.cat(absorbed), torch.cat(costs)
