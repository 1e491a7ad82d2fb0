"""Pictures from arrays: bands to RGB, class and token maps to colours, figures to pixels, PNGs.

matplotlib and Pillow load where they are needed, so that importing this module costs nothing, and
matplotlib's global state stays untouched beside a notebook's own figures.
"""

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hook.errors import DataError

_RGB_NAMES = (
    ("red", "r", "b04", "b4", "b04_red"),
    ("green", "g", "b03", "b3"),
    ("blue", "b", "b02", "b2"),
)
_WHITE = (255, 255, 255)


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

    Returns:
        np.ndarray: (H, W, 3) uint8.

    Raises:
        DataError: If ``image`` is not (C, H, W).
    """
    if image.ndim != 3 or image.shape[0] == 0:
        raise DataError("a picture needs bands", expected="(C, H, W)", found=image.shape)
    chosen = image[list(choose_rgb(bands, image.shape[0]))].astype(np.float32)
    seen = np.isfinite(chosen).all(0)
    if valid is not None:
        seen &= valid.astype(bool)
    rgb = np.empty((*image.shape[1:], 3), np.uint8)
    rgb[:] = background
    if seen.any():
        pixels = chosen[:, seen]
        low, high = np.percentile(pixels, percentiles, axis=1)[..., None]
        span = np.where(high > low, high - low, 1.0)
        rgb[seen] = np.rint(255 * np.clip((pixels - low) / span, 0, 1) ** gamma).T
    return rgb


def distinct_palette(count: int) -> list[list[int]]:
    """Colours that are easy to tell apart, for classes or tokens that have none of their own.

    Returns:
        list: ``count`` lists [r, g, b]; the same for the same place, whatever the count.
    """
    golden = 0.6180339887498949  # steps of the golden ratio never fall on a hue already taken
    # Neighbouring hues differ in saturation and value too.
    return [
        [
            round(255 * channel)
            for channel in colorsys.hsv_to_rgb(
                (0.06 + index * golden) % 1.0, (0.75, 0.5)[index % 2], (0.95, 0.55, 0.75)[index % 3]
            )
        ]
        for index in range(count)
    ]


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
    """
    table = np.array([*palette, background], np.uint8)
    index = np.where((labels >= 0) & (labels < len(palette)), labels, len(palette))
    return table[index.astype(np.int64)]


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
        if image.shape[:2] != token_map.shape:
            raise DataError(
                "picture and token map differ in size",
                expected=token_map.shape,
                found=image.shape[:2],
            )
        grey = image.astype(np.float32).mean(-1, keepdims=True)
        colours = alpha * colours + (1 - alpha) * grey
    if borders:
        edge = region_borders(token_map)
        colours[edge] = 0.25 * colours[edge] + 0.75 * 255
    colours[token_map < 0] = background
    return np.rint(np.clip(colours, 0, 255)).astype(np.uint8)


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, ...) to ``size`` by taking the nearest pixel, as labels require."""
    rows = (np.arange(size[0]) + 0.5) * array.shape[0] / size[0]
    cols = (np.arange(size[1]) + 0.5) * array.shape[1] / size[1]
    return array[rows.astype(np.int64)[:, None], cols.astype(np.int64)[None]]


def figure_to_rgb(figure) -> np.ndarray:
    """Render a ``matplotlib.figure.Figure`` at its own resolution: (height, width, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(
    path: str | os.PathLike,
    picture: np.ndarray,
    palette: Sequence[Sequence[int]] | None = None,
) -> None:
    """Write a picture; the file appears complete or not at all.

    Args:
        path: File to write; its folder is made where it is missing.
        picture: (H, W, 3) uint8, or (H, W) uint8.
        palette: For (H, W): the colour (r, g, b) of each value, 256 at most.
    """
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    image = Image.fromarray(picture)
    if palette is not None:
        image.putpalette(np.asarray(palette, np.uint8).tobytes())
    try:
        image.save(partial, format="PNG")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
