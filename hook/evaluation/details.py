"""Small objects and thin structures of class masks, in which a codec loses most.

References:
    Serra, "Image analysis and mathematical morphology", 1982: openings (here scikit-image's).
"""

import numpy as np
from skimage.measure import label
from skimage.morphology import disk, opening
from skimage.segmentation import clear_border


def small_objects(mask: np.ndarray, max_area: int) -> np.ndarray:
    """Mark the objects of at most ``max_area`` pixels.

    Objects are components of 4-neighbours. Those at the border of the image are left out: how large
    they are is not known.

    Args:
        mask: (H, W) bool, the pixels of a class.
        max_area: Pixels of the largest object.

    Returns:
        (H, W) bool.
    """
    objects = clear_border(label(mask, connectivity=1))
    areas = np.bincount(objects.ravel())
    areas[0] = max_area + 1  # the background
    return (areas <= max_area)[objects]


def thin_parts(mask: np.ndarray, max_width: int) -> np.ndarray:
    """Mark the parts of at most ``max_width`` pixels width, such as roads.

    They are what an opening by a disc one pixel wider removes, without pieces of fewer than
    ``max_width`` squared pixels: corners of wide objects, and short ends. The mask is taken to go
    on beyond the border of the image.

    Args:
        mask: (H, W) bool, the pixels of a class.
        max_width: Pixels across the widest part.

    Returns:
        (H, W) bool.
    """
    mask = np.asarray(mask, bool)
    parts = label(
        mask & ~opening(mask, disk(max_width / 2, strict_radius=False), mode="ignore"),
        connectivity=1,
    )
    areas = np.bincount(parts.ravel())
    areas[0] = 0  # the rest
    return (areas >= max_width**2)[parts]
