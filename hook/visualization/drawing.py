"""Pictures from arrays: bands to RGB, class and token maps to colours, figures to pixels.

matplotlib and Pillow are imported when used; matplotlib's global state is not changed.
"""

from collections.abc import Sequence

import numpy as np

from hook.arguments import bad_argument, check_number, check_pair, short_repr
from hook.errors import DataError
from hook.geo.styles import distinct_palette

_RGB_NAMES = (
    ("red", "r", "b04", "b4", "b04_red"),
    ("green", "g", "b03", "b3"),
    ("blue", "b", "b02", "b2"),
)
_WHITE = (255, 255, 255)

TINT = 0.35
"""Opacity of token colours inside outlines."""
FRAGMENT_SHARE = 1 / 250
"""Share of a picture below which a part of a region is a fragment, not outlined."""


def choose_rgb(bands: Sequence[str | int] | None, count: int) -> tuple[int, int, int]:
    """Choose the bands to show as red, green and blue.

    Args:
        bands: Band names in the image's order, if known.
        count: Number of bands.

    Returns:
        Three 0-based band indexes: those named red, green, blue; else the first three, or the
        first one three times.
    """
    names = [str(band).lower() for band in bands or ()][:count]
    found = [next((names.index(n) for n in known if n in names), None) for known in _RGB_NAMES]
    if None not in found:
        return tuple(found)
    return (0, 1, 2) if count >= 3 else (0, 0, 0)


def stretch_to_rgb(
    image: np.ndarray,
    bands: Sequence[str | int] | None = None,
    valid: np.ndarray | None = None,
    percentiles: tuple[float, float] = (1.0, 99.0),
    gamma: float = 0.85,
    background: tuple[int, int, int] = _WHITE,
    limits: np.ndarray | None = None,
) -> np.ndarray:
    """Convert an image of any band count and dtype to 8-bit RGB by a percentile stretch per band.

    Args:
        image: (C, H, W).
        bands: Band names, to find red, green and blue (see :func:`choose_rgb`).
        valid: (H, W), non-zero where valid; invalid pixels and non-finite values get
            ``background`` and are excluded from the percentiles.
        percentiles: Lower and upper percentile, mapped to 0 and 255.
        gamma: Exponent after the stretch; below 1 brightens the shadows.
        background: Colour of invalid pixels.
        limits: (2, 3) values of red, green and blue mapped to 0 and 255, instead of percentiles;
            see :func:`stretch_limits`.

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: ``image`` is not (C, H, W), or ``valid`` not (H, W).
        ConfigError: ``percentiles`` do not ascend from 0 to 100, or ``gamma`` is not above 0.
    """
    chosen, seen = _rgb_bands(image, bands, valid)
    percentiles, gamma = _check_percentiles(percentiles), check_number("gamma", gamma, above=0)
    rgb = np.empty((*image.shape[1:], 3), np.uint8)
    rgb[:] = background
    if seen.any():
        pixels = chosen[:, seen]
        if limits is None:
            limits = np.percentile(pixels, percentiles, axis=1)
        low, high = np.asarray(limits, np.float64)[..., None]
        span = np.where(high > low, high - low, 1.0)
        rgb[seen] = np.rint(255 * np.clip((pixels - low) / span, 0, 1) ** gamma).T
    return rgb


def stretch_limits(
    image: np.ndarray,
    bands: Sequence[str | int] | None = None,
    valid: np.ndarray | None = None,
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> np.ndarray | None:
    """Return the values between which :func:`stretch_to_rgb` would stretch an image.

    Arguments and errors are those of :func:`stretch_to_rgb`.

    Returns:
        (2, 3) lower and upper values of red, green and blue; None without a valid pixel.
    """
    chosen, seen = _rgb_bands(image, bands, valid)
    percentiles = _check_percentiles(percentiles)
    return np.percentile(chosen[:, seen], percentiles, axis=1) if seen.any() else None


def _rgb_bands(
    image: np.ndarray, bands: Sequence[str | int] | None, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the three bands to show (3, H, W) float32, and their validity (H, W) bool."""
    if getattr(image, "ndim", None) != 3 or image.shape[0] == 0:
        raise DataError(
            "a picture needs bands",
            expected="(C, H, W)",
            found=getattr(image, "shape", short_repr(image)),
            remedy="use an array with bands first, image[np.newaxis] for a single band",
        )
    if valid is not None and np.shape(valid) != image.shape[1:]:
        raise DataError(
            "the size of valid differs from the image",
            expected=image.shape[1:],
            found=np.shape(valid),
            remedy="use (H, W), non-zero where valid",
        )
    chosen = image[list(choose_rgb(bands, image.shape[0]))].astype(np.float32)
    seen = np.isfinite(chosen).all(0)
    if valid is not None:
        seen &= np.asarray(valid).astype(bool)
    return chosen, seen


def _check_percentiles(percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return a lower and an upper percentile, checked."""
    both = check_pair("percentiles", percentiles, "two numbers, such as (1, 99)")
    low, high = (check_number("percentiles", value, 0, 100) for value in both)
    if not low < high:
        raise bad_argument("percentiles", percentiles, "the lower one first, such as (1, 99)")
    return low, high


def render_labels(
    labels: np.ndarray,
    palette: Sequence[Sequence[int]],
    background: tuple[int, int, int] = _WHITE,
) -> np.ndarray:
    """Map class indexes to colours.

    Args:
        labels: (H, W) integers; those without a colour in ``palette`` get ``background``.
        palette: One (r, g, b) per class.
        background: Colour of nodata.

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: ``labels`` is not an array of numbers.
        ConfigError: ``palette`` is not a list of colours.
    """
    if getattr(getattr(labels, "dtype", None), "kind", None) not in ("b", "i", "u", "f"):
        raise DataError(
            "labels are not class indexes",
            expected="an array (H, W) of integers",
            found=short_repr(labels),
            remedy="use a NumPy array, np.asarray(labels)",
        )
    table = _colour_table(palette, background)
    index = np.where((labels >= 0) & (labels < len(palette)), labels, len(palette))
    return table[index.astype(np.int64)]


def _colour_table(palette: Sequence[Sequence[int]], background: tuple[int, int, int]) -> np.ndarray:
    """Return colours as (K + 1, 3) uint8, the background last."""
    try:
        table = np.array([*palette, background])
    except (TypeError, ValueError):  # not iterable, or colours of different lengths
        table = np.empty(0, object)
    is_rgb = table.dtype.kind in "iu" and table.ndim == 2 and table.shape[1] == 3
    if not is_rgb or table.min() < 0 or table.max() > 255:
        raise bad_argument(
            "palette",
            palette,
            "a colour (red, green, blue) from 0 to 255 for each class",
            "use one per class, such as distinct_palette(count)",
        )
    return table.astype(np.uint8)


def region_borders(regions: np.ndarray) -> np.ndarray:
    """Mark the pixels with a right or lower neighbour in a different region: (H, W) bool."""
    border = np.zeros(regions.shape, bool)
    border[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    border[:-1] |= regions[:-1] != regions[1:]
    return border


def render_tokens(
    token_map: np.ndarray,
    image: np.ndarray | None = None,
    num_tokens: int | None = None,
    alpha: float = 0.6,
    borders: bool = True,
    background: tuple[int, int, int] = _WHITE,
) -> np.ndarray:
    """Draw the regions of tokens in colour, with white borders, over a grey image.

    Args:
        token_map: (H, W) token id of each pixel; negative without a token.
        image: (H, W, 3) uint8; None for plain colours.
        num_tokens: Number of tokens, for colours independent of the tokens that occur.
        alpha: Opacity of the token colours over ``image``.
        borders: Draw borders, one pixel wide, between regions; not suited to regions a few pixels
            wide or pictures shown at a reduced size.
        background: Colour of pixels without a token.

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: The sizes of image and map differ.
    """
    top = int(token_map.max()) if token_map.size else -1
    count = max(top + 1, num_tokens or 0, 1)
    colours = render_labels(token_map, distinct_palette(count), background).astype(np.float32)
    if image is not None:
        _check_size(token_map, image)
        grey = image.astype(np.float32).mean(-1, keepdims=True)
        colours = alpha * colours + (1 - alpha) * grey
    if borders:
        edge = region_borders(token_map)
        colours[edge] = 0.25 * colours[edge] + 0.75 * 255
    colours[token_map < 0] = background
    return np.rint(np.clip(colours, 0, 255)).astype(np.uint8)


def outline_tokens(
    token_map: np.ndarray,
    image: np.ndarray,
    tokens: Sequence[int] | None = None,
    width: float = 2.0,
    rim: float = 1.0,
    tint: float = 0.0,
    min_size: int = 0,
) -> np.ndarray:
    """Outline the regions of tokens over an image, in the colour of the token.

    Lines are inside their region, at the border of the image too, with a rim on both sides, dark
    for light colours and light for dark ones, so that they are visible on any background.

    Args:
        token_map: See :func:`render_tokens`.
        image: (H, W, 3) uint8.
        tokens: Tokens to outline and tint; None for all.
        width: Width of the coloured line in pixels.
        rim: Width of each rim in pixels.
        tint: Opacity of the token's colour inside its region.
        min_size: Connected parts of fewer pixels are tinted, but not outlined.

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: The sizes of image and map differ.
    """
    import cv2  # 0.1 s to load

    _check_size(token_map, image)
    picture = image.copy()
    if not token_map.size:
        return picture
    palette = np.array(distinct_palette(max(int(token_map.max()) + 1, 1)), np.uint8)
    if tint:
        inside = _chosen(token_map, tokens)
        ground = (1 - tint) * image[inside] + tint * palette[token_map[inside]]
        picture[inside] = np.rint(ground).astype(np.uint8)
    regions = remove_fragments(token_map, min_size)
    edge = np.zeros(regions.shape, bool)
    framed = np.pad(regions, 1, constant_values=-2)  # differs from -1, no token
    height, length = regions.shape
    for row, col in ((0, 1), (2, 1), (1, 0), (1, 2)):
        edge |= framed[row : row + height, col : col + length] != regions
    # The nearest edge pixel is in the same region, as both sides of an edge are marked.
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # At a luminance of 0.18 black and white have the same contrast.
    rims = np.where(luminance(palette)[:, None] > 0.18, 0, 255).astype(np.uint8).repeat(3, axis=1)
    chosen = _chosen(regions, tokens)
    line = (distance >= rim) & (distance < rim + width)
    for where, colours in (
        (chosen & (distance < 2 * rim + width) & ~line, rims),
        (chosen & line, palette),
    ):
        picture[where] = colours[regions[where]]
    return picture


def _chosen(token_map: np.ndarray, tokens: Sequence[int] | None) -> np.ndarray:
    owned = token_map >= 0
    return owned if tokens is None else owned & np.isin(token_map, tokens)


def remove_fragments(token_map: np.ndarray, min_size: int) -> np.ndarray:
    """Remove fragments from a token map, for readable outlines.

    A group of adjacent fragments is assigned to the token with the longest border, or to no token
    if the group has ``min_size`` pixels or more.

    Args:
        token_map: See :func:`render_tokens`.
        min_size: Fragments are 4-connected parts of a region with fewer pixels.

    Returns:
        np.ndarray: (H, W) int64; -1 without a token.
    """
    token_map = np.maximum(token_map.astype(np.int64), -1)
    if min_size <= 1 or not token_map.size:
        return token_map
    from skimage.measure import label

    parts = label(token_map, background=-1, connectivity=1)
    fragment = (np.bincount(parts.ravel()) < min_size)[parts] & (token_map >= 0)
    cleaned = np.where(fragment, -1, token_map)
    groups = label(fragment, connectivity=1)  # 0: not a fragment
    # Each edge between a group of fragments and a token's pixel is a vote for this token.
    votes = np.zeros((groups.max() + 1, max(int(token_map.max()), 0) + 1), np.int64)
    for group, token_id in ((groups, cleaned), (groups.T, cleaned.T)):
        for here, there in ((group[:-1], token_id[1:]), (group[1:], token_id[:-1])):
            counts = (here > 0) & (there >= 0)
            np.add.at(votes, (here[counts], there[counts]), 1)
    winners = np.where(votes.any(axis=1), votes.argmax(axis=1), -1)
    winners[np.bincount(groups.ravel()) >= min_size] = -1
    return np.where(fragment, winners[groups], token_map)


def luminance(colours: np.ndarray) -> np.ndarray:
    """Return the luminance (...), from 0 to 1, of sRGB colours (..., 3), from 0 to 255."""
    share = np.asarray(colours, np.float32) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722], np.float32)


def highlight_token(
    token_map: np.ndarray,
    image: np.ndarray,
    token: int,
    width: float = 2.0,
    rim: float = 1.0,
    min_size: int = 0,
) -> np.ndarray:
    """Outline the region of ``token``, with all other regions in dark grey.

    The remaining arguments and errors are those of :func:`outline_tokens`.

    Returns:
        np.ndarray: (H, W, 3) uint8; pixels without a token are unchanged.
    """
    _check_size(token_map, image)
    picture = image.copy()
    dim = (token_map >= 0) & (token_map != token)
    picture[dim] = (0.4 * image[dim].astype(np.float32).mean(-1, keepdims=True)).astype(np.uint8)
    return outline_tokens(token_map, picture, (token,), width, rim, min_size=min_size)


def render_attention(
    attention: np.ndarray,
    image: np.ndarray,
    limits: tuple[float, float] | None = None,
    alpha: float = 0.7,
    valid: np.ndarray | None = None,
    colour_map: str = "inferno",
    background: tuple[int, int, int] = _WHITE,
) -> np.ndarray:
    """Draw one token's attention as a heat map over the grey image.

    Args:
        attention: (h, w) weights on any grid that covers the image, resized bilinearly.
        image: (H, W, 3) uint8.
        limits: Weights of the first and the last colour; None for 0 and the maximum.
        alpha: Opacity of the heat map.
        valid: (H, W), non-zero where valid; invalid pixels get ``background``.
        colour_map: Name of a matplotlib colour map; the default is perceptually uniform.
        background: Colour of invalid pixels.

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: The attention is not (h, w), or the limits do not ascend.
    """
    from matplotlib import colormaps
    from PIL import Image

    if attention.ndim != 2 or not attention.size:
        raise DataError(
            "a heat map needs one token's attention",
            expected="(h, w)",
            found=attention.shape,
            remedy="choose one token's attention, assignment[0, token]",
        )
    low, high = limits if limits is not None else (0.0, float(attention.max()))
    if not (low < high or limits is None):
        raise DataError(
            "the limits of the attention do not ascend",
            found=limits,
            remedy="put the lower limit first",
        )
    height, width = image.shape[:2]
    scaled = ((attention - low) / ((high - low) or 1.0)).clip(0, 1).astype(np.float32)
    fine = Image.fromarray(scaled).resize((width, height), Image.Resampling.BILINEAR)
    heat = 255 * colormaps[colour_map](np.asarray(fine))[..., :3]
    grey = image.astype(np.float32).mean(-1, keepdims=True)
    picture = np.rint(alpha * heat + (1 - alpha) * grey).clip(0, 255).astype(np.uint8)
    if valid is not None:
        picture[np.asarray(valid) == 0] = background
    return picture


def token_shares(token_map: np.ndarray, num_tokens: int) -> np.ndarray:
    """Compute the share of each token in the pixels of a map (H, W) that have a token.

    Returns:
        np.ndarray: (N,) shares that sum to one; all zero without such pixels.
    """
    pixels = np.bincount(token_map[token_map >= 0], minlength=num_tokens)
    return pixels / max(pixels.sum(), 1)


def label_positions(token_map: np.ndarray) -> dict[int, tuple[int, int, float]]:
    """Find the best position for a label in the region of each token of a map (H, W).

    Returns:
        dict: Token id to row and column of the pixel furthest from the region's edges, and its
        distance from them in pixels.
    """
    import cv2

    spots = {}
    for token in np.unique(token_map[token_map >= 0]):
        inside = np.pad(token_map == token, 1).astype(np.uint8)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        row, col = np.unravel_index(distance.argmax(), distance.shape)
        spots[int(token)] = int(row), int(col), float(distance[row, col])
    return spots


def _check_size(token_map: np.ndarray, image: np.ndarray) -> None:
    if image.shape[:2] != token_map.shape:
        raise DataError(
            "picture and token map differ in size",
            expected=token_map.shape,
            found=image.shape[:2],
            remedy="resize one of the two; hook.tokenizers.token_map has a size",
        )


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge a picture (H, W, 3) by an integer factor, bicubic."""
    from PIL import Image

    height, width = image.shape[:2]
    size = (factor * width, factor * height)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def figure_to_rgb(figure) -> np.ndarray:
    """Render a ``matplotlib.figure.Figure`` at its own resolution: (height, width, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
