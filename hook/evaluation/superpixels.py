"""Baseline partitions for tokens: grid, k-means, SLIC, Felzenszwalb, merged patches.

All return a map of regions (H, W) int64, numbered from 0, and are deterministic (k-means for a
given seed). Images are (H, W, C) floats. Three bands are red, green and blue from 0 to 1, compared
in CIELAB; otherwise a standard deviation of a band counts as 20 units of CIELAB, for comparable
parameters. Fragments of partitions and tokens can be merged into their neighbours.
"""

import functools
import heapq
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.cluster.vq import kmeans2, vq
from skimage import color, segmentation

from hook.errors import ConfigError, DataError
from hook.evaluation.homogeneity import connected_components
from hook.structures import ImageTokens

_FIT_PIXELS = 8192  # sample size for k-means; more pixels hardly change the centres


def regular_grid(size: tuple[int, int], count: int) -> np.ndarray:
    """Partition an image into exactly ``count`` nearly square cells.

    Args:
        size: Height and width in pixels.
        count: Number of cells; rows of cells may differ by one cell.

    Returns:
        (H, W) int64.

    Raises:
        ConfigError: ``count`` is not from 1 to the number of pixels.
    """
    height, width = size
    _check_count(count, height * width)
    rows = min(max(round(np.sqrt(count * height / width)), -(-count // width), 1), height, count)
    first = np.arange(rows + 1) * count // rows  # the first cell of each row
    row = np.arange(height) * rows // height
    cells = (first[1:] - first[:-1])[row][:, None]
    return first[:-1][row][:, None] + np.arange(width)[None] * cells // width


def kmeans_regions(
    image: np.ndarray, count: int, position: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Cluster pixels by colour and position.

    Args:
        image: (H, W, C) float; see the module.
        count: Number of clusters; they need not be connected.
        position: Weight of the position. At 1 the position along the longer side has the same
            standard deviation over the image as the colour of all bands; 0 ignores the position.
        seed: Seed of the initial centres.

    Returns:
        (H, W) int64; fewer clusters for an image of few colours.

    Raises:
        ConfigError: ``count`` is not from 1 to the number of pixels.

    Reference:
        Lloyd, "Least squares quantization in PCM", 1982; initial centres by Arthur and
        Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    """
    height, width = image.shape[:2]
    _check_count(count, height * width)
    colours = comparable_colours(image)
    spread = np.sqrt(colours.var((0, 1)).sum()) or 1.0  # of all bands together
    grid = np.stack(np.mgrid[:height, :width], axis=-1) / max(height, width)
    features = np.concatenate([colours / spread, position * np.sqrt(12) * grid], axis=-1)
    features = features.reshape(height * width, -1)
    rng = np.random.default_rng(seed)
    sample = features
    if len(features) > max(_FIT_PIXELS, 8 * count):
        sample = features[rng.choice(len(features), max(_FIT_PIXELS, 8 * count), replace=False)]
    distinct = len(np.unique(sample, axis=0))
    centres, _ = kmeans2(sample, min(count, distinct), minit="++", rng=rng, missing="warn")
    token_ids, _ = vq(features, centres)
    return _packed(token_ids.reshape(height, width))


def slic_regions(
    image: np.ndarray, count: int, compactness: float = 10.0, tolerance: float = 0.05
) -> np.ndarray:
    """Partition an image into connected SLIC superpixels.

    SLIC starts from a square grid, which allows few numbers. If the target is missed, the initial
    centres are evenly distributed as in maskSLIC, and if small superpixels still vanish, the
    compactness is doubled, at most twice.

    Args:
        image: (H, W, C) float; see the module.
        count: Target number of superpixels.
        compactness: Weight of the position relative to colour.
        tolerance: Relative tolerance of ``count``, if the image allows it (see
            :func:`search_count`).

    Returns:
        (H, W) int64.

    Raises:
        ConfigError: ``count`` is not from 1 to the number of pixels.

    Reference:
        Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", IEEE
        TPAMI 34(11), 2012; Irving, "maskSLIC: regional superpixel generation with application to
        local pathology characterisation in medical images", arXiv:1606.09518; as scikit-image
        implements them.
    """
    pixels = image.shape[0] * image.shape[1]
    _check_count(count, pixels)
    colours = comparable_colours(image)

    # scikit-image rescales its input to [0, 1], so the weight is relative to the range of colours.
    weight = compactness / (np.ptp(colours) or 1.0)
    full = np.ones(image.shape[:2], bool)

    def segment(parameter: float, factor: float = 1, mask: np.ndarray | None = full):
        return segmentation.slic(
            colours,
            n_segments=round(parameter),
            compactness=factor * weight,
            convert2lab=False,
            channel_axis=-1,
            start_label=0,
            mask=mask,
        )

    def error(regions: np.ndarray) -> int:
        return abs(int(regions.max()) + 1 - count)

    best = _packed(segment(count, mask=None))
    limits = (1, min(4 * count + 8, pixels))
    for factor in (1, 2, 4):
        if error(best) <= tolerance * count:
            break
        cut = functools.partial(segment, factor=factor)
        regions = search_count(cut, count, limits, tolerance, count, rising=True)
        best = min(best, regions, key=error)
    return best


def felzenszwalb_regions(
    image: np.ndarray,
    count: int,
    min_size: int = 16,
    tolerance: float = 0.05,
    sigma: float = 0.8,
) -> np.ndarray:
    """Partition an image by Felzenszwalb's graph-based segmentation.

    The scale is searched for the target number. If the number jumps over it, the next finer scale
    is used and ``min_size`` increased.

    Args:
        image: (H, W, C) float; see the module.
        count: Target number of regions.
        min_size: Minimum size of a region in pixels.
        tolerance: Relative tolerance of ``count``, if the image allows it (see
            :func:`search_count`).
        sigma: Standard deviation of the Gaussian blur before, in pixels.

    Returns:
        (H, W) int64.

    Raises:
        ConfigError: ``count`` is not from 1 to the number of pixels.

    Reference:
        Felzenszwalb and Huttenlocher, "Efficient graph-based image segmentation", IJCV 59(2),
        2004, as scikit-image implements it.
    """
    _check_count(count, image.shape[0] * image.shape[1])
    colours = comparable_colours(image)

    tried: list[tuple[int, float]] = []

    def cut(scale: float, smallest: float = min_size) -> np.ndarray:
        smallest = round(smallest)
        regions = segmentation.felzenszwalb(
            colours / 100, scale=scale, sigma=sigma, min_size=smallest, channel_axis=-1
        )
        # Its regions may be 8-connected; here they must be 4-connected.
        regions = merge_fragments(regions, smallest)
        tried.append((int(regions.max()) + 1, scale))
        return regions

    regions = search_count(cut, count, (1e-3, 1e6), tolerance, start=100.0, rising=False)
    found = int(regions.max()) + 1
    above = [(number, -scale) for number, scale in tried if number > count]
    if abs(found - count) <= tolerance * count or not above:
        return regions
    scale = -min(above)[1]
    limits = (min_size, max(image.shape[0] * image.shape[1] / count, min_size + 1))
    finer = search_count(
        lambda size: cut(scale, size), count, limits, tolerance, start=2 * min_size, rising=False
    )
    return min(regions, finer, key=lambda cut: abs(int(cut.max()) + 1 - count))


def search_count(
    cut: Callable[[float], np.ndarray],
    count: int,
    limits: tuple[float, float],
    tolerance: float,
    start: float,
    rising: bool,
    steps: int = 16,
) -> np.ndarray:
    """Search the parameter at which a segmentation has the target number of regions.

    Bisection on a logarithmic scale. If no step is within the tolerance (the number jumps, or the
    image has too little contrast), the nearest result is returned.

    Args:
        cut: Function of the parameter that returns (H, W) integer regions.
        count: Target number of regions.
        limits: Minimum and maximum parameter.
        tolerance: Relative tolerance of ``count``.
        start: First parameter to try.
        rising: Whether the number of regions increases with the parameter.
        steps: Maximum number of parameters to try.

    Returns:
        (H, W) int64, numbered from 0.
    """
    low, high = np.log(limits[0]), np.log(limits[1])
    at = float(np.clip(np.log(start), low, high))
    best = None
    for _ in range(steps):
        regions = _packed(cut(float(np.exp(at))))
        found = int(regions.max()) + 1
        if best is None or abs(found - count) < abs(int(best.max()) + 1 - count):
            best = regions
        if abs(found - count) <= tolerance * count or high - low < 1e-3:
            break
        if (found < count) == rising:
            low = at
        else:
            high = at
        at = (low + high) / 2
    return best


# ---------------------------------------------------------------------------------- merging
def merge_fragments(regions: np.ndarray, min_size: int = 16) -> np.ndarray:
    """Split regions into connected components, and merge small ones into a neighbour.

    Components are merged in order of size, then of their first pixel, into the neighbour with the
    longest common border, then with the lowest label.

    Args:
        regions: (H, W) integers; negative where there is no region.
        min_size: Minimum size of a component in pixels; one without a neighbour is kept.

    Returns:
        (H, W) int64 components, numbered from 0 in the order of their first pixels; -1 where there
        is no region.
    """
    parts = connected_components(regions)

    def longest_border(part: int, borders: dict[int, int]) -> int:
        return min(borders, key=lambda other: (-borders[other], other))

    target = _merge_small(parts, min_size, longest_border)
    # Renumbered, as the first pixel of a component may be that of a merged one.
    return connected_components(np.where(parts >= 0, np.append(target, -1)[parts], -1))


def token_regions(
    tokens: ImageTokens, min_region_pixels: int = 0, everywhere: bool = False
) -> np.ndarray:
    """Return the token map of an image with fragments merged into similar neighbours.

    Args:
        tokens: The tokens of an image.
        min_region_pixels: Minimum size of a connected part of a token in pixels (see
            :func:`merge_by_colour`); 0 keeps all, as for patch embeddings.
        everywhere: Include pixels without data.

    Returns:
        (H, W) int64 index of the token, -1 for nodata.
    """
    output = tokens.output
    if not min_region_pixels or output.assign == "grid" or output.cell is None:
        return tokens.token_map(everywhere)
    cells, colours = output.token_map()[0].cpu().numpy(), tokens.colours().cpu().numpy()
    cells = merge_by_colour(cells, colours, -(-min_region_pixels // output.cell**2))
    return tokens.spread(torch.from_numpy(cells), everywhere)


def merge_by_colour(token_ids: np.ndarray, colours: np.ndarray, min_size: int) -> np.ndarray:
    """Merge small connected parts of tokens into the neighbour of the most similar colour.

    Parts are merged in order of size, then of their first cell, into the neighbour with the nearest
    mean colours, then with the longest common border.

    Args:
        token_ids: (H, W) integers, token of each cell; negative without a token.
        colours: (C, H, W) mean bands of the cells, in normalised units; NaN and infinity are zero.
        min_size: Minimum size of a part in cells; one without a neighbour is kept.

    Returns:
        (H, W) int64 token ids.

    Reference:
        The connectivity step of SLIC: Achanta et al., "SLIC superpixels compared to
        state-of-the-art superpixel methods", IEEE TPAMI 34(11), 2012, section 3.2, with the
        most similar neighbour instead of the largest.
    """
    parts = connected_components(token_ids)
    known = parts >= 0
    if not known.any():
        return token_ids.astype(np.int64)
    count = int(parts.max()) + 1
    token = np.zeros(count, np.int64)
    token[parts[known]] = token_ids[known]
    sizes = np.bincount(parts[known], minlength=count).astype(np.float64)
    layers = np.nan_to_num(colours.astype(np.float64), posinf=0, neginf=0)
    sums = np.stack(
        [np.bincount(parts[known], layer[known], minlength=count) for layer in layers], axis=1
    )

    def most_similar(part: int, borders: dict[int, int]) -> int:
        others = list(borders)
        differences = sums[others] / sizes[others, None] - sums[part] / sizes[part]
        distances = dict(zip(others, np.square(differences).sum(axis=1).tolist(), strict=True))
        return min(others, key=lambda other: (distances[other], -borders[other], other))

    def on_merge(part: int, into: int) -> None:
        sums[into] += sums[part]
        sizes[into] += sizes[part]

    target = _merge_small(parts, min_size, most_similar, on_merge)
    return np.where(known, token[np.append(target, -1)[parts]], token_ids).astype(np.int64)


def _merge_small(
    parts: np.ndarray,
    min_size: int,
    choose: Callable[[int, dict[int, int]], int],
    on_merge: Callable[[int, int], None] = lambda part, into: None,
) -> np.ndarray:
    """Merge parts below a size into a neighbour, smallest first.

    Args:
        parts: (H, W) connected components numbered from 0; -1 where there is none.
        min_size: Minimum size of a part in cells.
        choose: Function of a part and its neighbours, with the lengths of their common borders,
            that returns the neighbour to merge into.
        on_merge: Called with each merged part and that neighbour.

    Returns:
        (P,) the final part of each part.
    """
    sizes = np.bincount(parts[parts >= 0]).tolist()
    borders = _shared_borders(parts, len(sizes))
    heap = [(size, part) for part, size in enumerate(sizes) if size < min_size]
    heapq.heapify(heap)
    target = np.arange(len(sizes))
    while heap:
        size, part = heapq.heappop(heap)
        if sizes[part] != size or not borders[part]:  # grown, merged or without neighbours
            continue
        into = choose(part, borders[part])
        for other, length in borders[part].items():
            del borders[other][part]
            if other != into:
                borders[other][into] = borders[other].get(into, 0) + length
                borders[into][other] = borders[into].get(other, 0) + length
        target[part], borders[part] = into, {}
        on_merge(part, into)
        sizes[into] += size
        sizes[part] = 0
        if sizes[into] < min_size:
            heapq.heappush(heap, (sizes[into], into))
    while (target[target] != target).any():
        target = target[target]
    return target


def merge_by_similarity(
    features: np.ndarray, cells: np.ndarray, counts: Sequence[int]
) -> list[np.ndarray]:
    """Merge neighbouring cells by Ward's agglomerative clustering with connectivity.

    This merges patches of a patch embedding into fewer tokens by the similarity of their features.

    Args:
        features: (N, D) feature of each cell.
        cells: (H, W) integer cell of each pixel, or of any grid, from 0 to N - 1.
        counts: Numbers of regions; above N returns the cells.

    Returns:
        For each count (H, W) int64 regions, numbered from 0; 4-connected if the cells are.

    Raises:
        DataError: Cells and features differ in number, or the cells are not connected.
        ConfigError: A count is below 1.

    Reference:
        Ward, "Hierarchical grouping to optimize an objective function", Journal of the American
        Statistical Association 58(301), 1963.
    """
    number = len(features)
    if not cells.size or cells.min() < 0 or cells.max() >= number:
        raise DataError(
            "cells and features do not match",
            expected=f"cells from 0 to {number - 1}",
            found=f"{cells.min()} to {cells.max()}" if cells.size else "no cell",
            remedy="use one row of features per cell",
        )
    minimum = min(counts)
    _check_count(min(minimum, number), number)
    means = features.astype(np.float64)
    sizes = np.ones(number)
    neighbours = [set(borders) for borders in _shared_borders(cells, number)]
    version = np.zeros(number, np.int64)  # step of the last merge, to skip outdated heap entries
    token_id = np.arange(number)

    def cost(a: int, b: int) -> float:
        return (
            sizes[a] * sizes[b] / (sizes[a] + sizes[b]) * float(((means[a] - means[b]) ** 2).sum())
        )

    heap = [(cost(a, b), a, b, 0, 0) for a in range(number) for b in neighbours[a] if a < b]
    heapq.heapify(heap)
    results = {number: token_id.copy()}
    remaining = number
    while remaining > minimum:
        if not heap:
            raise DataError(
                "the cells are not connected, so they cannot be merged further",
                expected=f"{minimum} regions",
                found=f"{remaining} without neighbours",
                remedy="use a larger count, or partition each connected part separately",
            )
        _, a, b, version_a, version_b = heapq.heappop(heap)
        if version[a] != version_a or version[b] != version_b:
            continue
        means[a] = (sizes[a] * means[a] + sizes[b] * means[b]) / (sizes[a] + sizes[b])
        sizes[a] += sizes[b]
        neighbours[a] = (neighbours[a] | neighbours[b]) - {a, b}
        remaining -= 1
        version[a], version[b] = number - remaining, -1
        token_id[token_id == b] = a
        for other in sorted(neighbours[a]):
            neighbours[other].discard(b)
            neighbours[other].add(a)
            first, second = min(a, other), max(a, other)
            heapq.heappush(
                heap,
                (cost(first, second), first, second, int(version[first]), int(version[second])),
            )
        if remaining in counts:
            results[remaining] = token_id.copy()
    return [_packed(results[min(count, number)][cells]) for count in counts]


def _shared_borders(parts: np.ndarray, count: int) -> list[dict[int, int]]:
    """Return each part's neighbours with the length of the border in pixel edges."""
    pairs = []
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        first, second = parts[here], parts[there]
        edge = (first != second) & (first >= 0) & (second >= 0)
        pairs.append(np.stack([first[edge], second[edge]]))
    both = np.sort(np.concatenate(pairs, axis=1), axis=0)
    borders: list[dict[int, int]] = [{} for _ in range(count)]
    if both.size:
        (first, second), lengths = np.unique(both, axis=1, return_counts=True)
        for a, b, length in zip(first.tolist(), second.tolist(), lengths.tolist(), strict=True):
            borders[a][b] = borders[b][a] = length
    return borders


# ---------------------------------------------------------------------------------- helpers
def comparable_colours(image: np.ndarray) -> np.ndarray:
    """Convert an image (H, W, C) to a space of comparable distances, float64; see the module."""
    if image.ndim != 3 or image.shape[-1] == 0:
        raise DataError(
            "an image needs bands",
            expected="(H, W, C)",
            found=image.shape,
            remedy="use an array with bands last, image[..., np.newaxis] for a single band",
        )
    if image.shape[-1] == 3:
        return color.rgb2lab(np.clip(image, 0, 1).astype(np.float64))
    spread = image.std((0, 1))
    return 20 * image / np.where(spread > 0, spread, 1.0)


def _packed(regions: np.ndarray) -> np.ndarray:
    """Renumber labels from 0."""
    return np.unique(regions, return_inverse=True)[1].reshape(regions.shape).astype(np.int64)


def _check_count(count: int, maximum: int) -> None:
    if not 1 <= count <= maximum:
        raise ConfigError(
            "an image cannot be cut into that many regions",
            expected=f"1 to {maximum}",
            found=count,
            remedy="use a count from 1 to the number of pixels",
        )
