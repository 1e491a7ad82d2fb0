"""Pictures of predictions: image, truth, prediction and token map side by side."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

_RGB_NAMES = (
    ("red", "r", "b04", "b4", "b04_red"),
    ("green", "g", "b03", "b3"),
    ("blue", "b", "b02", "b2"),
)
_LEGEND_CLASSES = 20
_TOKEN_MAP_SIDE = 256  # at least, so that borders stay thin


def choose_rgb(bands: Sequence | None, count: int) -> tuple[int, int, int]:
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


def to_rgb(image: np.ndarray, valid: np.ndarray | None = None, bands=None) -> np.ndarray:
    """Stretch an image of any range for display.

    Args:
        image: (C, H, W) of any dtype.
        valid: (H, W), non-zero where pixels count; the others become white.
        bands: Band names, see :func:`choose_rgb`.

    Returns:
        (H, W, 3) uint8, each channel stretched between its 2nd and 98th percentile.
    """
    chosen = np.asarray(image[list(choose_rgb(bands, image.shape[0]))], dtype=np.float32)
    good = np.isfinite(chosen).all(axis=0)
    if valid is not None:
        good &= np.asarray(valid, dtype=bool)
    out = np.full((*chosen.shape[1:], 3), 255, dtype=np.uint8)
    for index, channel in enumerate(chosen):
        values = channel[good]
        if not values.size:
            continue
        low, high = np.percentile(values, (2, 98))
        scaled = (values - low) / max(high - low, 1e-6)
        out[..., index][good] = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return out


def colour_classes(mask: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Colour a class map; indexes without a colour (ignored, nodata) become white.

    Args:
        mask: (H, W) class indexes.
        palette: One (r, g, b) per class.

    Returns:
        (H, W, 3) uint8.
    """
    table = np.full((len(palette) + 1, 3), 255, np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    return table[np.minimum(mask, len(palette))]


def default_palette(count: int) -> list[list[int]]:
    """Return colours [r, g, b] that are easy to tell apart: matplotlib's tab20, strong ones first.

    They repeat beyond twenty.
    """
    table = np.rint(np.array(colormaps["tab20"].colors) * 255).astype(int)
    # The table comes in pairs of strong and pale.
    table = np.concatenate([table[::2], table[1::2]])
    return table[np.arange(count) % len(table)].tolist()


def colour_tokens(tokens: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Colour a token map over a grey version of the image, with the borders of the regions.

    Args:
        tokens: (h, w) token index of each seed.
        image: (H, W, 3) uint8 that the seeds cover.

    Returns:
        (kH, kW, 3) uint8; k is 1 but for small images.
    """
    factor = -(-_TOKEN_MAP_SIDE // min(image.shape[:2]))
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = image.shape[:2]
    rows = np.arange(height) * tokens.shape[0] // height
    cols = np.arange(width) * tokens.shape[1] // width
    full = tokens[rows[:, None], cols[None, :]]
    table = np.array(default_palette(20))
    # Little of the image's brightness, so that a token has one colour in light and in shade.
    grey = 100 + 0.35 * image.mean(axis=2, keepdims=True)
    out = 0.65 * table[full % len(table)] + 0.35 * grey
    border = np.zeros(full.shape, bool)
    border[:, 1:] |= full[:, 1:] != full[:, :-1]
    border[1:] |= full[1:] != full[:-1]
    out[border] = 255
    return out.astype(np.uint8)


def draw_panels(
    panels: Sequence[tuple[str, np.ndarray]],
    title: str = "",
    legend: Sequence[tuple[str, Sequence[int]]] = (),
) -> np.ndarray:
    """Draw pictures side by side.

    Args:
        panels: Caption and (H, W, 3) uint8 picture of each.
        title: Line above all.
        legend: Name and (r, g, b) of each class.

    Returns:
        (height, width, 3) uint8.
    """
    figure = Figure(figsize=(3.0 * len(panels), 3.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (caption, picture) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(caption, fontsize=9)
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10)
    if legend:
        patches = [
            Patch(facecolor=np.divide(colour, 255), edgecolor="0.4", label=name)
            for name, colour in list(legend)[:_LEGEND_CLASSES]
        ]
        figure.legend(
            handles=patches,
            loc="outside lower center",
            ncols=min(len(patches), 2 * len(panels)),
            fontsize=8,
            frameon=False,
        )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write a picture; the file appears complete or not at all."""
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    Image.fromarray(picture).save(partial, format="PNG")
    os.replace(partial, path)
