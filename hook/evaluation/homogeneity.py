"""How homogeneous regions are: does a token cover one object, and has an object one token?

The functions compare a map of regions (tokens, superpixels, any partition of the image) with the
true segments, or with the image itself. Three kinds of true segments are told apart by the caller:
classes, objects (:func:`object_map`), or any other partition.

References:
    Shao et al. (2024), arXiv:2403.18593: a token is an object; the token-object confusion matrix.
    Stutz, Hermans and Leibe, "Superpixels: An evaluation of the state-of-the-art", Computer Vision
    and Image Understanding 166, 2018: the measures of superpixels side by side.
"""

from collections.abc import Collection

import numpy as np
from skimage.measure import label

from hook.evaluation.boundary import boundary_scores, count_matched, label_boundary
from hook.evaluation.confusion import check_same_size

NO_REGION = -1
"""Label of pixels that belong to no region or segment; so does every other negative one."""


def connected_components(labels: np.ndarray) -> np.ndarray:
    """Split regions into their connected parts.

    Args:
        labels: (H, W) integers; negative where there is no region.

    Returns:
        (H, W) int64, numbered from 0 in the order of their first pixels, row by row; two pixels
        are together where a path of 4-neighbours of the same label joins them. -1 where there is
        no region.
    """
    labels = np.maximum(labels.astype(np.int64), NO_REGION)
    return label(labels, background=NO_REGION, connectivity=1).astype(np.int64) - 1


def object_map(
    truth: np.ndarray, ignore_index: int | None = 255, stuff: Collection[int] = ()
) -> np.ndarray:
    """Turn a segmentation into objects: the connected components of each class.

    Objects of one class that touch are one, as the masks do not tell them apart.

    Args:
        truth: (H, W) integer classes.
        ignore_index: Label of pixels that do not count; None where all do.
        stuff: Classes that are no countable things, such as the background: each is one object,
            connected or not.

    Returns:
        (H, W) int64, numbered from 0; -1 where no truth is known.
    """
    truth = truth.astype(np.int64)  # masks are unsigned and have no negative label
    known = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    objects = connected_components(np.where(known, truth, NO_REGION))
    for index in stuff:
        of_class = (truth == index) & known
        if of_class.any():
            objects[of_class] = objects[of_class].min()
    numbers, packed = np.unique(objects, return_inverse=True)
    return packed.reshape(truth.shape) + min(int(numbers[0]), 0)


# ---------------------------------------------------------------------------------- overlap
def overlap_matrix(segments: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Count the pixels that each true segment shares with each region.

    With objects and tokens this is the paper's token-object confusion matrix: of a perfect
    tokenizer, each row and each column holds a single number.

    Args:
        segments: (H, W) integer true segments; negative where nothing is known.
        regions: (H, W) integers; negative where there is no region.

    Returns:
        (S, R) int64; the segments and regions that occur, in ascending order of their labels.
        Pixels without segment or without region do not count.

    Raises:
        DataError: The maps differ in size.

    Reference:
        Shao et al. (2024), arXiv:2403.18593.
    """
    check_same_size(segments, regions, "true segments and regions")
    counted = (segments >= 0) & (regions >= 0)
    rows, segment = np.unique(segments[counted], return_inverse=True)
    columns, region = np.unique(regions[counted], return_inverse=True)
    pairs = segment * len(columns) + region
    counts = np.bincount(pairs, minlength=len(rows) * len(columns))
    return counts.reshape(len(rows), len(columns))


def object_share(overlap: np.ndarray) -> float:
    """Mean share of an object that lies in its best token: has an object one token?

    Every object weighs the same, whatever its size. One token that owns the whole image reaches 1.

    Args:
        overlap: (S, R) of :func:`overlap_matrix`, a row per object.

    Returns:
        0 to 1, above 0; NaN without an object.

    Reference:
        Summary of the rows of the confusion matrix of Shao et al. (2024).
    """
    return float(np.mean(overlap.max(1) / overlap.sum(1))) if overlap.size else float("nan")


def token_share(overlap: np.ndarray) -> float:
    """Mean share of a token that its best object fills: does a token cover one object?

    Every token weighs the same, whatever its size; weighted by size this is
    :func:`achievable_accuracy`. A token per pixel reaches 1.

    Args:
        overlap: (S, R) of :func:`overlap_matrix`, a row per object.

    Returns:
        0 to 1, above 0; NaN without a token.

    Reference:
        Summary of the columns of the confusion matrix of Shao et al. (2024).
    """
    return object_share(overlap.T)


def achievable_accuracy(overlap: np.ndarray) -> float:
    """Share of pixels that are right if every region gets the segment it overlaps most (ASA).

    With a row per class it bounds the pixel accuracy of any classifier that says one class per
    region.

    Args:
        overlap: (S, R) of :func:`overlap_matrix`.

    Returns:
        0 to 1, above 0; NaN without a pixel.

    Reference:
        Liu, Tuzel, Ramalingam and Chellappa, "Entropy rate superpixel segmentation", CVPR 2011.
    """
    return float(overlap.max(0).sum() / overlap.sum()) if overlap.size else float("nan")


def undersegmentation_error(overlap: np.ndarray) -> float:
    """Share of pixels by which regions leak over the edges of segments.

    The definition of Neubert and Protzel, without a free parameter: a region that a segment cuts
    in two adds the smaller part to that segment's error, so regions that merely touch a segment
    cost little. (Levinshtein et al. 2009 add the whole outer part.) It is summed over all pairs
    and divided by the number of pixels, so it can exceed 1.

    Args:
        overlap: (S, R) of :func:`overlap_matrix`.

    Returns:
        0 or more; 0 where no region is cut. NaN without a pixel.

    Reference:
        Neubert and Protzel, "Superpixel benchmark and comparison", Forum Bildverarbeitung 2012.
    """
    if not overlap.size:
        return float("nan")
    outside = overlap.sum(0) - overlap
    return float(np.minimum(overlap, outside).sum() / overlap.sum())


def variation_of_information(overlap: np.ndarray) -> tuple[float, float]:
    """Information, in bits, that segments and regions do not share.

    Args:
        overlap: (S, R) of :func:`overlap_matrix`.

    Returns:
        H(segments | regions), what regions merge that is apart, and H(regions | segments), what
        they split that is together. Their sum is the variation of information: 0 for equal
        partitions. NaN without a pixel.

    Reference:
        Meila, "Comparing clusterings: an information based distance", Journal of Multivariate
        Analysis 98(5), 2007.
    """
    if not overlap.size:
        return float("nan"), float("nan")
    joint = overlap / overlap.sum()
    bits = _entropy(joint)
    merged, split = bits - _entropy(joint.sum(0)), bits - _entropy(joint.sum(1))
    return max(merged, 0.0), max(split, 0.0)  # rounding may fall below


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


# ---------------------------------------------------------------------------------- boundaries
def region_boundary_scores(
    segments: np.ndarray, regions: np.ndarray, tolerance: float
) -> dict[str, float]:
    """Compare the boundaries of regions with those of the true segments.

    Args:
        segments: (H, W) integer true segments; negative where nothing is known.
        regions: (H, W) integers; do not count where nothing is known.
        tolerance: Largest distance that is near, Euclidean, in pixels, this value included.

    Returns:
        ``recall``, the share of true boundary pixels with one of a region near; ``precision``, the
        share of the regions' boundary pixels with a true one near; ``f1``, their harmonic mean.
        0 to 1; NaN where undefined, as :func:`hook.evaluation.boundary.boundary_scores` says.

    Raises:
        DataError: The maps differ in size.
        ConfigError: The tolerance is negative or no number.

    Reference:
        Martin, Fowlkes and Malik, "Learning to detect natural image boundaries using local
        brightness, color, and texture cues", IEEE TPAMI 26(5), 2004.
    """
    check_same_size(segments, regions, "true segments and regions")
    known = (segments >= 0) & (regions >= 0)
    true = label_boundary(np.where(known, segments, NO_REGION), NO_REGION)
    found = label_boundary(np.where(known, regions, NO_REGION), NO_REGION)
    counts = [
        count_matched(found, true, tolerance),
        np.count_nonzero(found),
        count_matched(true, found, tolerance),
        np.count_nonzero(true),
    ]
    return {name: float(of[0]) for name, of in boundary_scores(np.array([counts])).items()}


# ---------------------------------------------------------------------------------- no truth
def explained_variation(image: np.ndarray, regions: np.ndarray) -> float:
    """Share of the variance of the pixels that their regions' means explain; needs no truth.

    Args:
        image: (H, W, C) values, in any unit; all bands together.
        regions: (H, W) integers; negative where pixels do not count.

    Returns:
        0 to 1: 0 for one region, 1 for a region per pixel or an image of one value. NaN without a
        pixel.

    Raises:
        DataError: The sizes differ.

    Reference:
        Moore, Prince, Warrell, Mohammed and Jones, "Superpixel lattices", CVPR 2008.
    """
    check_same_size(image[..., 0], regions, "image and regions")
    counted = regions >= 0
    if not counted.any():
        return float("nan")
    values = image[counted].astype(np.float64)  # P C
    values -= values.mean(0)
    total = float((values**2).sum())
    if total == 0:
        return 1.0
    _, token_ids, sizes = np.unique(regions[counted], return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(token_ids, weights=band) for band in values.T], axis=1)  # R C
    return float((sums**2 / sizes[:, None]).sum() / total)


def compactness(regions: np.ndarray) -> float:
    """How compact regions are: their area against that of a disc of their perimeter.

    The mean of 4 pi area / perimeter^2 over the regions, weighted by area. The perimeter is the
    length of the edges between pixels, the image's border included, so squares have the most,
    pi / 4, a digital disc pi^2 / 16, and a region in scattered parts little.

    Args:
        regions: (H, W) integers; negative where there is no region.

    Returns:
        Above 0, at most pi / 4; NaN without a region.

    Reference:
        Schick, Fischer and Stiefelhagen, "Measuring and evaluating the compactness of
        superpixels", ICPR 2012.
    """
    counted = regions >= 0
    if not counted.any():
        return float("nan")
    _, token_ids = np.unique(regions[counted], return_inverse=True)
    packed = np.full(np.add(regions.shape, 2), NO_REGION, np.int64)
    packed[1:-1, 1:-1][counted] = token_ids
    area = np.bincount(token_ids)
    perimeter = np.zeros(len(area))
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        first, second = packed[here], packed[there]
        edge = first != second
        for side in (first[edge], second[edge]):
            perimeter += np.bincount(side[side >= 0], minlength=len(area))
    return float((4 * np.pi * area / perimeter**2 * area).sum() / area.sum())


# ---------------------------------------------------------------------------------- all of them
MEASURES = {
    "ObjectShare": "share of an object in its best token",
    "TokenShare": "share of a token in its best object",
    "ASA": "achievable segmentation accuracy",
    "UE": "under-segmentation error (Neubert & Protzel)",
    "BoundaryRecall": "true boundary met by regions",
    "BoundaryPrecision": "boundary of regions that is true",
    "BoundaryF1": "harmonic mean of the two",
    "VI": "variation of information in bits",
    "EV": "explained variation of the image",
    "CO": "compactness",
}
"""Names of the measures and what they are; UE and VI are better when low."""


def measure_regions(
    regions: np.ndarray,
    truth: np.ndarray,
    image: np.ndarray | None = None,
    tolerance: float = 3,
    ignore_index: int | None = 255,
    stuff: Collection[int] = (),
) -> dict[str, float]:
    """Take every measure of the regions of one image.

    Achievable accuracy is that of classes; shares, under-segmentation error and variation of
    information are those of objects (:func:`object_map`).

    Args:
        regions: (H, W) integers; negative where there is no region.
        truth: (H, W) integer classes.
        image: (H, W, C) values in any unit; None leaves out the explained variation.
        tolerance: Of boundaries, in pixels.
        ignore_index: Label of pixels that do not count; None where all do.
        stuff: Classes that are one object each, connected or not.

    Returns:
        The value of each name in :data:`MEASURES`; NaN where it is undefined.

    Raises:
        DataError: The sizes differ.
        ConfigError: The tolerance is negative or no number.
    """
    objects = object_map(truth, ignore_index, stuff)
    overlap = overlap_matrix(objects, regions)
    classes = np.where(objects >= 0, truth.astype(np.int64), NO_REGION)
    boundary = region_boundary_scores(classes, regions, tolerance)
    return {
        "ObjectShare": object_share(overlap),
        "TokenShare": token_share(overlap),
        "ASA": achievable_accuracy(overlap_matrix(classes, regions)),
        "UE": undersegmentation_error(overlap),
        "BoundaryRecall": boundary["recall"],
        "BoundaryPrecision": boundary["precision"],
        "BoundaryF1": boundary["f1"],
        "VI": sum(variation_of_information(overlap)),
        "EV": float("nan") if image is None else explained_variation(image, regions),
        "CO": compactness(regions),
    }


def stuff_classes(classes: Collection[str]) -> tuple[int, ...]:
    """Find the classes that are no countable things by their name: the background.

    Returns:
        Indexes of the classes named ``background``, whatever the case.
    """
    return tuple(i for i, name in enumerate(classes) if name.casefold() == "background")
