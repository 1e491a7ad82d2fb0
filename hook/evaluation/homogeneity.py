"""Homogeneity of regions: whether a token covers one object, and an object has one token.

The functions compare a map of regions (tokens, superpixels, any partition of the image) with true
segments (classes, objects of :func:`object_map`, or any other partition), or with the image.

References:
    Shao et al. (2024), arXiv:2403.18593: a token is an object; the token-object confusion matrix.
    Stutz, Hermans and Leibe, "Superpixels: An evaluation of the state-of-the-art", Computer Vision
    and Image Understanding 166, 2018: an overview of measures.
"""

from collections.abc import Collection

import numpy as np
from skimage.measure import label
from sklearn.metrics import adjusted_rand_score

from hook.evaluation.boundary import boundary_scores, count_matched, label_boundary
from hook.evaluation.confusion import check_same_size

NO_REGION = -1
"""Label of pixels without a region or segment, like any other negative label."""


def connected_components(labels: np.ndarray) -> np.ndarray:
    """Split regions into their connected parts.

    Args:
        labels: (H, W) integers; negative where there is no region.

    Returns:
        (H, W) int64 4-connected components, numbered from 0 in the row-major order of their first
        pixels; -1 where there is no region.
    """
    labels = np.maximum(labels.astype(np.int64), NO_REGION)
    return label(labels, background=NO_REGION, connectivity=1).astype(np.int64) - 1


def object_map(
    truth: np.ndarray, ignore_index: int | None = 255, stuff: Collection[int] = ()
) -> np.ndarray:
    """Convert a segmentation to objects: the connected components of each class.

    Args:
        truth: (H, W) integer classes.
        ignore_index: Label of ignored pixels; None for none.
        stuff: Classes that are not countable, such as the background: each is one object,
            connected or not.

    Returns:
        (H, W) int64, numbered from 0; -1 for ignored pixels.
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

    With objects and tokens this is the paper's token-object confusion matrix: for a perfect
    tokenizer, each row and each column has a single non-zero entry.

    Args:
        segments: (H, W) integer true segments; negative where unknown.
        regions: (H, W) integers; negative where there is no region.

    Returns:
        (S, R) int64, segments and regions in ascending order of their labels; pixels without
        segment or region are ignored.

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
    """Return the mean share of an object in its best token, unweighted by size.

    A single token for the whole image reaches 1.

    Args:
        overlap: (S, R) of :func:`overlap_matrix`, a row per object.

    Returns:
        Above 0, up to 1; NaN without an object.

    Reference:
        Summary of the rows of the confusion matrix of Shao et al. (2024).
    """
    return float(np.mean(overlap.max(1) / overlap.sum(1))) if overlap.size else float("nan")


def token_share(overlap: np.ndarray) -> float:
    """Return the mean share of a token in its best object, unweighted by size.

    Weighted by size this is :func:`achievable_accuracy`. A token per pixel reaches 1.

    Args:
        overlap: (S, R) of :func:`overlap_matrix`, a row per object.

    Returns:
        Above 0, up to 1; NaN without a token.

    Reference:
        Summary of the columns of the confusion matrix of Shao et al. (2024).
    """
    return object_share(overlap.T)


def achievable_accuracy(overlap: np.ndarray) -> float:
    """Return the accuracy if every region is assigned the segment it overlaps most (ASA).

    With a row per class it bounds the pixel accuracy of any classifier of regions.

    Args:
        overlap: (S, R) of :func:`overlap_matrix`.

    Returns:
        Above 0, up to 1; NaN without a pixel.

    Reference:
        Liu, Tuzel, Ramalingam and Chellappa, "Entropy rate superpixel segmentation", CVPR 2011.
    """
    return float(overlap.max(0).sum() / overlap.sum()) if overlap.size else float("nan")


def adjusted_rand_index(segments: np.ndarray, regions: np.ndarray) -> float:
    """Return how often two pixels are together, or apart, in both; corrected for chance.

    Args:
        segments: (H, W) true segments, negative where not known.
        regions: (H, W) regions, negative where there is none.

    Returns:
        1 for equal partitions, about 0 for independent ones; NaN without a pixel.

    Reference:
        Hubert and Arabie, "Comparing partitions", Journal of Classification 1985.
    """
    known = (segments >= 0) & (regions >= 0)
    if not known.any():
        return float("nan")
    return float(adjusted_rand_score(segments[known], regions[known]))


def undersegmentation_error(overlap: np.ndarray) -> float:
    """Return the share of pixels by which regions leak across the edges of segments.

    The parameter-free definition of Neubert and Protzel: a region split by a segment adds the
    smaller part to that segment's error. (Levinshtein et al. 2009 add all of the outer part.) The
    sum over all pairs is divided by the number of pixels, so it can exceed 1.

    Args:
        overlap: (S, R) of :func:`overlap_matrix`.

    Returns:
        0 or more; 0 if no region is split. NaN without a pixel.

    Reference:
        Neubert and Protzel, "Superpixel benchmark and comparison", Forum Bildverarbeitung 2012.
    """
    if not overlap.size:
        return float("nan")
    outside = overlap.sum(0) - overlap
    return float(np.minimum(overlap, outside).sum() / overlap.sum())


def variation_of_information(overlap: np.ndarray) -> tuple[float, float]:
    """Return the information, in bits, that segments and regions do not share.

    Args:
        overlap: (S, R) of :func:`overlap_matrix`.

    Returns:
        H(segments | regions), due to merged segments, and H(regions | segments), due to split
        ones. Their sum is the variation of information, 0 for equal partitions. NaN without a
        pixel.

    Reference:
        Meila, "Comparing clusterings: an information based distance", Journal of Multivariate
        Analysis 98(5), 2007.
    """
    if not overlap.size:
        return float("nan"), float("nan")
    joint = overlap / overlap.sum()
    bits = _entropy(joint)
    merged, split = bits - _entropy(joint.sum(0)), bits - _entropy(joint.sum(1))
    return max(merged, 0.0), max(split, 0.0)  # rounding may give negative values


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


# ---------------------------------------------------------------------------------- boundaries
def region_boundary_scores(
    segments: np.ndarray, regions: np.ndarray, tolerance: float
) -> dict[str, float]:
    """Compare the boundaries of regions with those of the true segments.

    Args:
        segments: (H, W) integer true segments; negative where unknown.
        regions: (H, W) integers; ignored where the segments are unknown.
        tolerance: Maximum distance of a match, Euclidean, in pixels, inclusive.

    Returns:
        ``recall``, the share of true boundary pixels near one of a region; ``precision``, the share
        of the regions' boundary pixels near a true one; ``f1``, their harmonic mean. 0 to 1; NaN
        where undefined, see :func:`hook.evaluation.boundary.boundary_scores`.

    Raises:
        DataError: The maps differ in size.
        ConfigError: The tolerance is negative or not a number.

    Reference:
        Martin, Fowlkes and Malik, "Learning to detect natural image boundaries using local
        brightness, color, and texture cues", IEEE TPAMI 26(5), 2004.
    """
    check_same_size(segments, regions, "true segments and regions")
    known = (segments >= 0) & (regions >= 0)
    # As int64: NumPy 2.5 refuses NO_REGION beside an array of uint8.
    true = label_boundary(np.where(known, segments.astype(np.int64), NO_REGION), NO_REGION)
    found = label_boundary(np.where(known, regions.astype(np.int64), NO_REGION), NO_REGION)
    counts = [
        count_matched(found, true, tolerance),
        np.count_nonzero(found),
        count_matched(true, found, tolerance),
        np.count_nonzero(true),
    ]
    return {name: float(of[0]) for name, of in boundary_scores(np.array([counts])).items()}


# ---------------------------------------------------------------------------------- no truth
def explained_variation(image: np.ndarray, regions: np.ndarray) -> float:
    """Return the share of the variance of the pixels explained by the means of their regions.

    Args:
        image: (H, W, C) values in any unit.
        regions: (H, W) integers; negative for ignored pixels.

    Returns:
        From 0 for one region to 1 for a region per pixel; 1 for a constant image. NaN without a
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
    """Return the compactness of regions: their area relative to a disc of the same perimeter.

    The mean of 4 pi area / perimeter^2 over the regions, weighted by area. The perimeter is the
    length of the pixel edges, the image's border included, so squares have the maximum, pi / 4,
    and a digital disc pi^2 / 16.

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


# ---------------------------------------------------------------------------------- tokens
def common_variance(tokens: np.ndarray) -> float:
    """Return the share of the variance over images that is common to all tokens of an image.

    Args:
        tokens: (I, N, D) tokens of I images.

    Returns:
        From 0 to 1, where the N tokens differ by constants only; about 1 / N for independent
        tokens, and 1 for a single one. NaN without variance.
    """
    centred = tokens - tokens.mean(axis=0, dtype=np.float64)
    total = float(np.square(centred).sum())
    common = tokens.shape[1] * float(np.square(centred.mean(axis=1)).sum())
    return common / total if total > 0 else float("nan")


def weight_cosine(weights: np.ndarray) -> float:
    """Return the mean cosine between the weights of any two tokens of an image.

    Args:
        weights: (N, h, w) weights of the tokens, not negative.

    Returns:
        0, where no seed belongs to two tokens, to 1; NaN for fewer than two tokens with weights.
    """
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, np.newaxis]
    count = len(rows)
    if count < 2:
        return float("nan")
    return float((np.square(rows.sum(axis=0)).sum() - count) / (count * (count - 1)))


# ---------------------------------------------------------------------------------- all of them
MEASURES = {
    "ObjectShare": "share of an object in its best token",
    "TokenShare": "share of a token in its best object",
    "ASA": "achievable segmentation accuracy",
    "ARI": "adjusted Rand index of regions and objects",
    "UE": "under-segmentation error (Neubert & Protzel)",
    "BoundaryRecall": "true boundary met by regions",
    "BoundaryPrecision": "boundary of regions that is true",
    "BoundaryF1": "harmonic mean of the two",
    "VI": "variation of information in bits",
    "EV": "explained variation of the image",
    "CO": "compactness",
}
"""Names and descriptions of the measures; lower is better for UE and VI."""


def measure_regions(
    regions: np.ndarray,
    truth: np.ndarray,
    image: np.ndarray | None = None,
    tolerance: float = 3,
    ignore_index: int | None = 255,
    stuff: Collection[int] = (),
) -> dict[str, float]:
    """Compute all measures of the regions of one image.

    Achievable accuracy and boundaries refer to classes; shares, under-segmentation error and
    variation of information to objects (:func:`object_map`).

    Args:
        regions: (H, W) integers; negative where there is no region.
        truth: (H, W) integer classes.
        image: (H, W, C) values in any unit; None leaves out the explained variation.
        tolerance: Tolerance of boundaries in pixels.
        ignore_index: Label of ignored pixels; None for none.
        stuff: See :func:`object_map`.

    Returns:
        The value of each name in :data:`MEASURES`; NaN where undefined.

    Raises:
        DataError: The sizes differ.
        ConfigError: The tolerance is negative or not a number.
    """
    objects = object_map(truth, ignore_index, stuff)
    overlap = overlap_matrix(objects, regions)
    classes = np.where(objects >= 0, truth.astype(np.int64), NO_REGION)
    boundary = region_boundary_scores(classes, regions, tolerance)
    return {
        "ObjectShare": object_share(overlap),
        "TokenShare": token_share(overlap),
        "ASA": achievable_accuracy(overlap_matrix(classes, regions)),
        "ARI": adjusted_rand_index(objects, regions),
        "UE": undersegmentation_error(overlap),
        "BoundaryRecall": boundary["recall"],
        "BoundaryPrecision": boundary["precision"],
        "BoundaryF1": boundary["f1"],
        "VI": sum(variation_of_information(overlap)),
        "EV": float("nan") if image is None else explained_variation(image, regions),
        "CO": compactness(regions),
    }


def stuff_classes(classes: Collection[str]) -> tuple[int, ...]:
    """Return the indexes of classes that are not countable: ``background``, in any case."""
    return tuple(i for i, name in enumerate(classes) if name.casefold() == "background")
