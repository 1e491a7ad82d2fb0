"""Partitions that tokens are compared with: a grid, k-means, SLIC, Felzenszwalb, merged patches.

And what makes small connected parts of a partition, tokens' own too, part of what surrounds them.

Each gives a map of regions (H, W) int64, numbered from 0. All are deterministic, k-means and SLIC
for a given seed and image. Images are (H, W, C) floats: three bands are taken for red, green and
blue from 0 to 1 and compared in CIELAB; of any other number, a standard deviation of a band counts
as 20 units of CIELAB, so that the parameters mean about the same.
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

_FIT_PIXELS = 8192  # k-means finds its centres on so many; more change them little


def regular_grid(size: tuple[int, int], count: int) -> np.ndarray:
    """Cut an image into nearly square cells, exactly as many as asked for.

    Args:
        size: Height and width in pixels.
        count: Number of cells; rows of cells may differ by one cell.

    Returns:
        (H, W) int64.

    Raises:
        ConfigError: There are fewer pixels than cells, or no cell is asked for.
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
        position: Weight of the position. At 1 the position along the longer side varies as much
            over the image (by its standard deviation) as colour does, all bands together; 0
            leaves the position out.
        seed: Seed of the first centres.

    Returns:
        (H, W) int64; an image of few colours may give fewer clusters.

    Raises:
        ConfigError: There are fewer pixels than clusters, or no cluster is asked for.

    Reference:
        Lloyd, "Least squares quantization in PCM", 1982; first centres by Arthur and
        Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    """
    height, width = image.shape[:2]
    _check_count(count, height * width)
    colours = _comparable(image)
    spread = np.sqrt(colours.var((0, 1)).sum()) or 1.0  # of all bands together
    grid = np.stack(np.mgrid[:height, :width], axis=-1) / max(height, width)
    features = np.concatenate([colours / spread, position * np.sqrt(12) * grid], axis=-1)
    features = features.reshape(height * width, -1)
    rng = np.random.default_rng(seed)
    some = features
    if len(features) > max(_FIT_PIXELS, 8 * count):
        some = features[rng.choice(len(features), max(_FIT_PIXELS, 8 * count), replace=False)]
    different = len(np.unique(some, axis=0))
    centres, _ = kmeans2(some, min(count, different), minit="++", rng=rng, missing="warn")
    token_ids, _ = vq(features, centres)
    return _packed(token_ids.reshape(height, width))


def slic_regions(
    image: np.ndarray, count: int, compactness: float = 10.0, tolerance: float = 0.05
) -> np.ndarray:
    """Cut an image into SLIC superpixels, connected ones.

    SLIC starts from a square grid, which gives few numbers. Where it misses the wanted one, the
    starts are spread evenly instead, as maskSLIC does in a mask, and where small parts keep
    vanishing, the compactness is doubled, twice at most.

    Args:
        image: (H, W, C) float; see the module.
        count: Wanted number of superpixels.
        compactness: Weight of the position against colour.
        tolerance: Largest share by which the number of superpixels may differ from ``count``,
            where the image allows it (see :func:`search_count`).

    Returns:
        (H, W) int64.

    Raises:
        ConfigError: There are fewer pixels than superpixels, or none is asked for.

    Reference:
        Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", IEEE
        TPAMI 34(11), 2012; Irving, "maskSLIC: regional superpixel generation with application to
        local pathology characterisation in medical images", arXiv:1606.09518; as scikit-image
        implements them.
    """
    pixels = image.shape[0] * image.shape[1]
    _check_count(count, pixels)
    colours = _comparable(image)

    # scikit-image stretches what it gets to [0, 1], in which CIELAB and its weight would be lost.
    weight = compactness / (np.ptp(colours) or 1.0)
    everywhere = np.ones(image.shape[:2], bool)

    def cut(parameter: float, factor: float = 1, mask: np.ndarray | None = everywhere):
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

    best = _packed(cut(count, mask=None))
    limits = (1, min(4 * count + 8, pixels))
    for factor in (1, 2, 4):
        if error(best) <= tolerance * count:
            break
        again = search_count(
            functools.partial(cut, factor=factor), count, limits, tolerance, count, rising=True
        )
        best = min(best, again, key=error)
    return best


def felzenszwalb_regions(
    image: np.ndarray, count: int, min_size: int = 16, tolerance: float = 0.05
) -> np.ndarray:
    """Cut an image by merging pixels over weak edges first.

    The scale is searched for the wanted number. Where the number jumps over it, the next finer
    scale is taken and the smallest size of a region raised.

    Args:
        image: (H, W, C) float; see the module.
        count: Wanted number of regions.
        min_size: Smallest region in pixels, at least.
        tolerance: Largest share by which the number of regions may differ from ``count``, where
            the image allows it (see :func:`search_count`).

    Returns:
        (H, W) int64.

    Raises:
        ConfigError: There are fewer pixels than regions, or none is asked for.

    Reference:
        Felzenszwalb and Huttenlocher, "Efficient graph-based image segmentation", IJCV 59(2),
        2004, as scikit-image implements it.
    """
    _check_count(count, image.shape[0] * image.shape[1])
    colours = _comparable(image)

    tried: list[tuple[int, float]] = []

    def cut(scale: float, smallest: float = min_size) -> np.ndarray:
        smallest = round(smallest)
        regions = segmentation.felzenszwalb(
            colours / 100, scale=scale, sigma=0.8, min_size=smallest, channel_axis=-1
        )
        # Its regions may hang together by a corner alone; elsewhere here that is not connected.
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
    """Search the parameter at which a segmentation gives the wanted number of regions.

    The parameter is halved between the limits on a logarithmic scale. Where no step comes within
    the tolerance (the number jumps, or the image has too little in it) the nearest is given: the
    caller reports the number it got.

    Args:
        cut: Parameter to (H, W) integer regions.
        count: Wanted number of regions.
        limits: Smallest and largest parameter.
        tolerance: Share of ``count`` by which the number may differ.
        start: First parameter to try.
        rising: Whether the number of regions rises with the parameter, or falls.
        steps: Number of parameters to try at most.

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
    """Cut regions into connected components, and merge small ones into a neighbour.

    The smallest component goes first, of equal ones the first in the image. It joins the neighbour
    it shares the longest border with, of equal ones the one with the lower label, and the two are
    one component from then on.

    Args:
        regions: (H, W) integers; negative where there is no region.
        min_size: Smallest component in pixels that stays. One without a neighbour stays too.

    Returns:
        (H, W) int64 components, numbered from 0 in the order of their first pixels; -1 where there
        is no region.
    """
    parts = connected_components(regions)

    def longest_border(part: int, borders: dict[int, int]) -> int:
        return min(borders, key=lambda other: (-borders[other], other))

    target = _absorb_small(parts, min_size, longest_border)
    # Numbered anew: a component may begin where one that it took in did.
    return connected_components(np.where(parts >= 0, np.append(target, -1)[parts], -1))


def token_regions(
    tokens: ImageTokens, min_region_pixels: int = 0, everywhere: bool = False
) -> np.ndarray:
    """Give each pixel its token, and small parts of tokens to what they look like.

    Args:
        tokens: The tokens of an image.
        min_region_pixels: Smallest connected part of a token that stays, in pixels (see
            :func:`merge_by_colour`); 0 keeps all, as does a grid, whose tokens all have one size.
        everywhere: Also where the image has no data.

    Returns:
        (H, W) int64 index of the token, -1 where the image has no data.
    """
    output = tokens.output
    if not min_region_pixels or output.assign == "grid" or output.cell is None:
        return tokens.token_map(everywhere)
    cells, colours = output.token_map()[0].cpu().numpy(), tokens.colours().cpu().numpy()
    cells = merge_by_colour(cells, colours, -(-min_region_pixels // output.cell**2))
    return tokens.spread(torch.from_numpy(cells), everywhere)


def merge_by_colour(token_ids: np.ndarray, colours: np.ndarray, min_size: int) -> np.ndarray:
    """Give connected parts of tokens that are too small to the neighbour they look most like.

    The smallest part goes first, of equal ones the first in the image. It goes to the neighbour
    whose mean colours are nearest to its own, of equal ones over the longest border, and the two
    are one part from then on. So every part of every token has a size that can be seen, as SLIC's
    regions have, and borders stay where the image has them.

    Args:
        token_ids: (H, W) integers, index of the token of each cell; negative where none is.
        colours: (C, H, W) mean bands of the cells, in normalised units; what is not finite counts
            as zero.
        min_size: Smallest part in cells that stays. One without a neighbour stays too.

    Returns:
        (H, W) int64 token ids.

    Reference:
        The connectivity step of SLIC: Achanta et al., "SLIC superpixels compared to
        state-of-the-art superpixel methods", IEEE TPAMI 34(11), 2012, section 3.2, with the
        most_similar neighbour in place of the largest.
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
        apart = sums[others] / sizes[others, None] - sums[part] / sizes[part]
        far = dict(zip(others, np.square(apart).sum(axis=1).tolist(), strict=True))
        return min(others, key=lambda other: (far[other], -borders[other], other))

    def joined(part: int, into: int) -> None:
        sums[into] += sums[part]
        sizes[into] += sizes[part]

    target = _absorb_small(parts, min_size, most_similar, joined)
    return np.where(known, token[np.append(target, -1)[parts]], token_ids).astype(np.int64)


def _absorb_small(
    parts: np.ndarray,
    min_size: int,
    choose: Callable[[int, dict[int, int]], int],
    joined: Callable[[int, int], None] = lambda part, into: None,
) -> np.ndarray:
    """Let parts below a size be absorbed, the smallest first.

    Args:
        parts: (H, W) connected components numbered from 0; -1 where none is.
        min_size: Smallest part in cells that stays.
        choose: Takes a part and its neighbours with the lengths of their common borders; gives the
            neighbour that absorbs it.
        joined: Is told of each part and what has absorbed it.

    Returns:
        (P,) the part that each part has become.
    """
    sizes = np.bincount(parts[parts >= 0]).tolist()
    borders = _shared_borders(parts, len(sizes))
    heap = [(size, part) for part, size in enumerate(sizes) if size < min_size]
    heapq.heapify(heap)
    target = np.arange(len(sizes))
    while heap:
        size, part = heapq.heappop(heap)
        if sizes[part] != size or not borders[part]:  # grown since, gone, or alone
            continue
        into = choose(part, borders[part])
        for other, length in borders[part].items():
            del borders[other][part]
            if other != into:
                borders[other][into] = borders[other].get(into, 0) + length
                borders[into][other] = borders[into].get(other, 0) + length
        target[part], borders[part] = into, {}
        joined(part, into)
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
    """Merge neighbouring cells, the pair first whose union costs the least variance.

    Ward's agglomerative clustering with connectivity: as patches of a patch embedding are merged
    into fewer tokens by the similarity of what they hold.

    Args:
        features: (N, D) feature of each cell.
        cells: (H, W) integer index of the cell of each pixel, or of any grid, from 0 to N - 1.
        counts: Wanted numbers of regions; more than N gives the cells.

    Returns:
        For each count (H, W) int64 regions, numbered from 0; 4-connected where the cells are.

    Raises:
        DataError: Cells and features differ in number, or the cells are not joined by neighbours.
        ConfigError: A count is below 1.

    Reference:
        Ward, "Hierarchical grouping to optimize an objective function", Journal of the American
        Statistical Association 58(301), 1963.
    """
    number = len(features)
    if not cells.size or cells.min() < 0 or cells.max() >= number:
        raise DataError(
            "cells and features do not fit",
            expected=f"cells from 0 to {number - 1}",
            found=f"{cells.min()} to {cells.max()}" if cells.size else "no cell",
            remedy="give a row of features for every cell",
        )
    minimum = min(counts)
    _check_count(min(minimum, number), number)
    means = features.astype(np.float64)
    sizes = np.ones(number)
    near = [set(of) for of in _shared_borders(cells, number)]
    born = np.zeros(number, np.int64)  # which entries of the heap are still of today's regions
    token_id = np.arange(number)

    def cost(a: int, b: int) -> float:
        return (
            sizes[a] * sizes[b] / (sizes[a] + sizes[b]) * float(((means[a] - means[b]) ** 2).sum())
        )

    heap = [(cost(a, b), a, b, 0, 0) for a in range(number) for b in near[a] if a < b]
    heapq.heapify(heap)
    at_count = {number: token_id.copy()}
    left = number
    while left > minimum:
        if not heap:
            raise DataError(
                "the cells fall apart before they are few enough",
                expected=f"{minimum} regions",
                found=f"{left} that have no neighbour",
                remedy="ask for more regions, or cut each connected part by itself",
            )
        _, a, b, of_a, of_b = heapq.heappop(heap)
        if born[a] != of_a or born[b] != of_b:
            continue
        means[a] = (sizes[a] * means[a] + sizes[b] * means[b]) / (sizes[a] + sizes[b])
        sizes[a] += sizes[b]
        near[a] = (near[a] | near[b]) - {a, b}
        left -= 1
        born[a], born[b] = number - left, -1
        token_id[token_id == b] = a
        for other in sorted(near[a]):
            near[other].discard(b)
            near[other].add(a)
            first, second = min(a, other), max(a, other)
            heapq.heappush(
                heap, (cost(first, second), first, second, int(born[first]), int(born[second]))
            )
        if left in counts:
            at_count[left] = token_id.copy()
    return [_packed(at_count[min(count, number)][cells]) for count in counts]


def _shared_borders(parts: np.ndarray, count: int) -> list[dict[int, int]]:
    """Give each part's neighbours with the length of the border in pixel edges."""
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
def _comparable(image: np.ndarray) -> np.ndarray:
    """Bring colours to a space whose distances mean something: (H, W, C) float64."""
    if image.ndim != 3 or image.shape[-1] == 0:
        raise DataError(
            "an image needs bands",
            expected="(H, W, C)",
            found=image.shape,
            remedy="give an array with bands last, image[..., np.newaxis] for a single band",
        )
    if image.shape[-1] == 3:
        return color.rgb2lab(np.clip(image, 0, 1).astype(np.float64))
    spread = image.std((0, 1))
    return 20 * image / np.where(spread > 0, spread, 1.0)


def _packed(regions: np.ndarray) -> np.ndarray:
    """Number the labels that occur from 0."""
    return np.unique(regions, return_inverse=True)[1].reshape(regions.shape).astype(np.int64)


def _check_count(count: int, maximum: int) -> None:
    if not 1 <= count <= maximum:
        raise ConfigError(
            "an image cannot be cut into that many regions",
            expected=f"1 to {maximum}",
            found=count,
            remedy="ask for at least one region, and for no more than there are pixels",
        )
