"""Pictures from arrays: bands to RGB, class and token maps to colours, figures to pixels.

matplotlib and Pillow load where they are needed, so that importing this module costs nothing, and
matplotlib's global state stays untouched beside a notebook's own figures.
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
"""Opacity of token colours inside outlines, at which the picture still shows."""
SPECK = 1 / 250
"""Share of a picture below which a part of a region is a speck, not outlined."""


def choose_rgb(bands: Sequence[str | int] | None, count: int) -> tuple[int, int, int]:
    """Choose the bands to show as red, green and blue.

    Args:
        bands: Band names in the image's order, where known.
        count: Number of bands.

    Returns:
        Three band positions, from 0: those named red, green, blue; else the first three, or the
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
    """Turn an image of any band count and dtype into 8-bit RGB by a percentile stretch per band.

    Args:
        image: (C, H, W).
        bands: Band names, to find red, green and blue (see :func:`choose_rgb`).
        valid: (H, W), non-zero where pixels count; the others get ``background`` and do not count
            for the percentiles. Values that are not finite are never valid.
        percentiles: Lower and upper percentile that become 0 and 255.
        gamma: Exponent after the stretch; below 1 brightens the shadows.
        background: Colour of pixels without data.
        limits: (2, 3) values of red, green and blue that become 0 and 255, instead of those at the
            percentiles, see :func:`stretch_limits`: pictures of one scene then have one stretch.

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: If ``image`` is not (C, H, W), or ``valid`` not (H, W).
        ConfigError: If ``percentiles`` are not two that ascend from 0 to 100, or ``gamma`` is not
            above 0.
    """
    chosen, seen = _to_show(image, bands, valid)
    percentiles, gamma = _ascending(percentiles), check_number("gamma", gamma, above=0)
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
    """Give the values between which :func:`stretch_to_rgb` would stretch an image.

    Args:
        image: See :func:`stretch_to_rgb`, as for all that follow.
        bands: Band names.
        valid: (H, W), non-zero where pixels count.
        percentiles: Lower and upper percentile.

    Returns:
        (2, 3) lower and upper values of red, green and blue; None where no pixel counts.

    Raises:
        DataError: If ``image`` is not (C, H, W), or ``valid`` not (H, W).
        ConfigError: If ``percentiles`` are not two that ascend from 0 to 100.
    """
    chosen, seen = _to_show(image, bands, valid)
    percentiles = _ascending(percentiles)
    return np.percentile(chosen[:, seen], percentiles, axis=1) if seen.any() else None


def _to_show(
    image: np.ndarray, bands: Sequence[str | int] | None, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The three bands to show (3, H, W) float32, and where they hold data (H, W) bool."""
    if getattr(image, "ndim", None) != 3 or image.shape[0] == 0:
        raise DataError(
            "a picture needs bands",
            expected="(C, H, W)",
            found=getattr(image, "shape", short_repr(image)),
            remedy="give an array with bands first, image[np.newaxis] for a single band",
        )
    if valid is not None and np.shape(valid) != image.shape[1:]:
        raise DataError(
            "valid has another size than the image",
            expected=image.shape[1:],
            found=np.shape(valid),
            remedy="give (H, W), non-zero where pixels count",
        )
    chosen = image[list(choose_rgb(bands, image.shape[0]))].astype(np.float32)
    seen = np.isfinite(chosen).all(0)
    if valid is not None:
        seen &= np.asarray(valid).astype(bool)
    return chosen, seen


def _ascending(percentiles: tuple[float, float]) -> tuple[float, float]:
    """Take a lower and an upper percentile."""
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
    """Paint class indexes with their colours.

    Args:
        labels: (H, W) integers; whatever has no colour in ``palette`` gets ``background``.
        palette: One (r, g, b) per class.
        background: Colour of no data.

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: If ``labels`` is no array of numbers.
        ConfigError: If ``palette`` is no list of colours.
    """
    if getattr(getattr(labels, "dtype", None), "kind", None) not in ("b", "i", "u", "f"):
        raise DataError(
            "labels are no class indexes",
            expected="an array (H, W) of integers",
            found=short_repr(labels),
            remedy="give an array of NumPy, np.asarray(labels)",
        )
    table = _colour_table(palette, background)
    index = np.where((labels >= 0) & (labels < len(palette)), labels, len(palette))
    return table[index.astype(np.int64)]


def _colour_table(palette: Sequence[Sequence[int]], background: tuple[int, int, int]) -> np.ndarray:
    """Take colours: (K + 1, 3) uint8, the background last."""
    try:
        table = np.array([*palette, background])
    except (TypeError, ValueError):  # nothing to go through, or colours of several lengths
        table = np.empty(0, object)
    whole = table.dtype.kind in "iu" and table.ndim == 2 and table.shape[1] == 3
    if not whole or table.min() < 0 or table.max() > 255:
        raise bad_argument(
            "palette",
            palette,
            "a colour (red, green, blue) from 0 to 255 for each class",
            "give one for each, as distinct_palette(count) does",
        )
    return table.astype(np.uint8)


def region_borders(regions: np.ndarray) -> np.ndarray:
    """Mark the pixels whose right or lower neighbour belongs to another region: (H, W) bool."""
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
    """Paint each token's region, with white borders, over the picture it comes from.

    Args:
        token_map: (H, W) integers, index of the token that owns a pixel; negative where none does.
        image: (H, W, 3) uint8 picture underneath, drawn in grey; None for plain colours.
        num_tokens: Number of tokens, for colours that do not depend on which tokens occur.
        alpha: Opacity of the token colours over ``image``.
        borders: Whether to draw the borders between regions. They are a pixel wide: leave them out
            where regions are only a few pixels wide or the picture will be shown reduced.
        background: Colour of pixels without a token.

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: If ``image`` has another size than the map.
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
    """Draw each token's regions as outlines over the picture, in the colour of the token.

    A line runs inside its region, along the picture's edge too, so that every region is closed and
    neighbours keep their own lines. On both sides it has a rim, dark for light colours and light
    for dark ones: on any ground either the line or its rim shows.

    Args:
        token_map: (H, W) integers, index of the token that owns a pixel; negative where none does.
        image: (H, W, 3) uint8.
        tokens: Tokens to outline and tint; None for all.
        width: Width of the coloured line in pixels.
        rim: Width of each rim in pixels.
        tint: Opacity of the token's colour inside its region.
        min_size: Connected parts of fewer pixels get their tint, but no lines in or around them:
            lines around every speck hide the picture.

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: If ``image`` has another size than the map.
    """
    # OpenCV takes a tenth of a second to load, which importing this module should not pay.
    import cv2

    _check_size(token_map, image)
    picture = image.copy()
    if not token_map.size:
        return picture
    palette = np.array(distinct_palette(max(int(token_map.max()) + 1, 1)), np.uint8)
    if tint:
        inside = _chosen(token_map, tokens)
        ground = (1 - tint) * image[inside] + tint * palette[token_map[inside]]
        picture[inside] = np.rint(ground).astype(np.uint8)
    regions = without_fragments(token_map, min_size)
    edge = np.zeros(regions.shape, bool)
    framed = np.pad(regions, 1, constant_values=-2)  # nobody's, not even without a token
    height, length = regions.shape
    for row, col in ((0, 1), (2, 1), (1, 0), (1, 2)):
        edge |= framed[row : row + height, col : col + length] != regions
    # The nearest pixel at an edge lies in the same region, since each side of an edge has its own.
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


def without_fragments(token_map: np.ndarray, min_size: int) -> np.ndarray:
    """Leave specks out of a token map, for lines that a person can follow.

    A speck goes to the token that it has the longest border with. Where specks lie side by side
    over a larger area, nobody gets them.

    Args:
        token_map: (H, W) integers, index of the token that owns a pixel; negative where none does.
        min_size: 4-connected parts of a region with fewer pixels are specks.

    Returns:
        np.ndarray: (H, W) int64; -1 where no token owns a pixel.
    """
    token_map = np.maximum(token_map.astype(np.int64), -1)
    if min_size <= 1 or not token_map.size:
        return token_map
    from skimage.measure import label

    parts = label(token_map, background=-1, connectivity=1)
    fragment = (np.bincount(parts.ravel()) < min_size)[parts] & (token_map >= 0)
    cleaned = np.where(fragment, -1, token_map)
    groups = label(fragment, connectivity=1)  # 0: no speck
    # Each step from a group of specks to a pixel that a token keeps is a vote for this token.
    votes = np.zeros((groups.max() + 1, max(int(token_map.max()), 0) + 1), np.int64)
    for group, token_id in ((groups, cleaned), (groups.T, cleaned.T)):
        for here, there in ((group[:-1], token_id[1:]), (group[1:], token_id[:-1])):
            counts = (here > 0) & (there >= 0)
            np.add.at(votes, (here[counts], there[counts]), 1)
    winners = np.where(votes.any(axis=1), votes.argmax(axis=1), -1)
    winners[np.bincount(groups.ravel()) >= min_size] = -1
    return np.where(fragment, winners[groups], token_map)


def luminance(colours: np.ndarray) -> np.ndarray:
    """Luminance of sRGB colours: (..., 3) from 0 to 255 -> (...) from 0, black, to 1, white."""
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
    """Show one token's region: in colour and outlined, and all else in dark grey.

    Args:
        token_map: (H, W) integers, index of the token that owns a pixel; negative where none does.
        image: (H, W, 3) uint8.
        token: Token whose region is shown.
        width: Width of the coloured line in pixels; see :func:`outline_tokens`.
        rim: Width of each rim in pixels.
        min_size: Connected parts of fewer pixels get no lines in or around them.

    Returns:
        np.ndarray: (H, W, 3) uint8; pixels without a token stay as they are.

    Raises:
        DataError: If ``image`` has another size than the map.
    """
    _check_size(token_map, image)
    picture = image.copy()
    rest = (token_map >= 0) & (token_map != token)
    picture[rest] = (0.4 * image[rest].astype(np.float32).mean(-1, keepdims=True)).astype(np.uint8)
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
    """Lay one token's attention as heat over the grey picture.

    Args:
        attention: (h, w) weights on any grid that covers the picture; enlarged bilinearly, which
            adds no peaks.
        image: (H, W, 3) uint8 picture underneath.
        limits: Weights of the first and the last colour; None from 0 to the largest.
        alpha: Opacity of the heat.
        valid: (H, W), non-zero where pixels count; the others get ``background``.
        colour_map: Name of a colour map of matplotlib. The default is perceptually uniform: equal
            steps of attention look equally large, in print and to the colour-blind too.
        background: Colour of pixels without data.

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: If the attention is not (h, w) or the limits do not ascend.
    """
    from matplotlib import colormaps
    from PIL import Image

    if attention.ndim != 2 or not attention.size:
        raise DataError(
            "heat needs one token's attention",
            expected="(h, w)",
            found=attention.shape,
            remedy="choose one token's attention, assignment[0, token]",
        )
    low, high = limits if limits is not None else (0.0, float(attention.max()))
    if not (low < high or limits is None):
        raise DataError(
            "the limits of the attention do not ascend",
            found=limits,
            remedy="give the lower limit first",
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
    """Measure which share of the picture each token owns.

    Args:
        token_map: (H, W) integers, index of the token that owns a pixel; negative where none does.
        num_tokens: Number of tokens N.

    Returns:
        np.ndarray: (N,) shares of the pixels that have an owner, which sum to one; all zero where
        none has.
    """
    pixels = np.bincount(token_map[token_map >= 0], minlength=num_tokens)
    return pixels / max(pixels.sum(), 1)


def roomiest_spots(token_map: np.ndarray) -> dict[int, tuple[int, int, float]]:
    """Find where in its region each token has most room, for a number to be written there.

    Args:
        token_map: (H, W) integers, index of the token that owns a pixel; negative where none does.

    Returns:
        dict: Row and column of the pixel furthest from the region's edges, and its distance from
        them in pixels, of each token that owns a pixel.
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
            remedy="resize one of the two: hook.tokenizers.token_map takes a size",
        )


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge a picture (H, W, 3) by a whole factor, smoothly, for eyes that are not pixels."""
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
