"""Overview of a scene: image, labels and tokens side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hook.errors import ConfigError, DataError
from hook.geo.staging import save_png
from hook.visualization.drawing import figure_to_rgb

INK, PAPER, MUTED = "#1d2733", "#ffffff", "#5d6b7a"


def scale_bar_length(extent: float) -> float:
    """Return a round length (1, 2 or 5 times a power of ten) near a fifth of ``extent``."""
    if not extent > 0:
        raise ConfigError(
            "a scale bar needs a positive extent",
            found=extent,
            remedy="use the width of the picture in metres, or leave the scale bar out",
        )
    base = 10 ** math.floor(math.log10(extent / 5))
    return max(m * base for m in (1, 2, 5) if m * base <= extent / 5 * 1.0001)


@dataclass
class Panel:
    """One picture of an overview.

    Attributes:
        title: Title.
        picture: (H, W, 3) uint8.
        note: Small text after the title, such as a score.
        frame: (row, column, height, width) in pixels of an area to outline, or None.
        frame_label: Label of that outline.
    """

    title: str
    picture: np.ndarray
    note: str = ""
    frame: tuple[float, float, float, float] | None = None
    frame_label: str = ""


def draw_overview(
    path: str | Path,
    panels: Sequence[Panel],
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    metres_per_pixel: float | None = None,
    title: str = "",
    subtitle: str = "",
    attribution: str = "",
    columns: int = 2,
    dpi: int = 150,
) -> Path:
    """Draw panels side by side with titles, a legend, a scale bar and an attribution line.

    Args:
        path: PNG to write, atomically.
        panels: Pictures, usually image, truth, prediction and token map.
        classes: Class names of the legend.
        palette: One (r, g, b) per class.
        metres_per_pixel: Ground size of a pixel; None for no scale bar.
        title: Title.
        subtitle: Line below it.
        attribution: Source of the imagery, bottom right.
        columns: Panels per row.
        dpi: Dots per inch.

    Returns:
        Path: ``path``.

    Raises:
        DataError: There is no panel.
        ConfigError: Classes and palette differ in length.
    """
    # Imported when used: matplotlib takes 0.5 s to load.
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    if not panels:
        raise DataError("an overview needs at least one panel", remedy="add a panel")
    if len(classes) != len(palette):
        raise ConfigError(
            "class names and palette differ in length",
            expected=len(classes),
            found=len(palette),
            remedy="use one colour per class",
        )
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height, width = panels[0].picture.shape[:2]
    aspect = height / width

    # All lengths in inches, for the same size of pictures and text with any shape of the scene.
    panel_w = 6.2 if aspect <= 1.2 else 4.6
    panel_h, gap, side = panel_w * aspect, 0.22, 0.35
    head = (0.62 if title else 0.1) + (0.28 if subtitle else 0)
    caption = 0.36
    per_row = max(1, int((columns * panel_w) // 1.6))
    legend_rows = -(-len(classes) // per_row) if classes else 0
    foot = 0.24 + 0.30 * legend_rows + (0.22 if attribution else 0)
    total_w = 2 * side + columns * panel_w + (columns - 1) * gap
    total_h = head + rows * (panel_h + caption) + (rows - 1) * 0.1 + foot

    figure = Figure((total_w, total_h), dpi=dpi, facecolor=PAPER)

    def at(x: float, y: float) -> tuple[float, float]:
        return x / total_w, 1 - y / total_h

    if title:
        figure.text(*at(side, 0.22), title, size=17, weight="bold", color=INK, va="top")
    if subtitle:
        figure.text(*at(side, 0.56), subtitle, size=10.5, color=MUTED, va="top")
    for k, panel in enumerate(panels):
        row, column = divmod(k, columns)
        x = side + column * (panel_w + gap)
        y = head + row * (panel_h + caption + 0.1) + caption
        left, bottom = at(x, y + panel_h)
        axes = figure.add_axes((left, bottom, panel_w / total_w, panel_h / total_h))
        axes.imshow(panel.picture, interpolation="antialiased", aspect="auto")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color="#c5ccd3", linewidth=0.8)
        figure.text(*at(x, y - 0.09), panel.title, size=12.5, weight="bold", color=INK)
        figure.text(*at(x + panel_w, y - 0.09), panel.note, size=10, color=MUTED, ha="right")
        if panel.frame is not None:
            top, start, tall, wide = panel.frame
            for colour, line in ((INK, 3.2), (PAPER, 1.6)):
                box = Rectangle((start - 0.5, top - 0.5), wide, tall, fill=False)
                box.set(edgecolor=colour, linewidth=line, linestyle="-", clip_on=True)
                axes.add_patch(box)
            if panel.frame_label:
                axes.text(
                    start + 0.014 * width,
                    top + 0.016 * width,
                    panel.frame_label,
                    size=9,
                    color=PAPER,
                    va="top",
                    bbox=dict(facecolor=INK, alpha=0.75, edgecolor="none", pad=2.5),
                )
        if k == 0 and metres_per_pixel:
            draw_scale_bar(axes, panel.picture.shape, metres_per_pixel)

    if classes:
        handles = [
            Patch(facecolor=np.array(colour) / 255, edgecolor="#8a949e", linewidth=0.6, label=name)
            for name, colour in zip(classes, palette, strict=True)
        ]
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=at(side - 0.03, total_h - foot + 0.12),
            bbox_transform=figure.transFigure,
            ncols=min(per_row, len(classes)),
            frameon=False,
            fontsize=10.5,
            labelcolor=INK,
            handlelength=1.5,
            handleheight=1.1,
            columnspacing=1.8,
            borderaxespad=0,
            borderpad=0,
        )
    if attribution:
        x, y = at(total_w - side, total_h - 0.12)
        figure.text(x, y, attribution, size=8.5, color=MUTED, ha="right")

    path = Path(path)
    save_png(path, figure_to_rgb(figure))
    return path


def draw_scale_bar(axes, shape: tuple[int, ...], metres_per_pixel: float) -> None:
    """Draw a scale bar of a round length in the lower left corner of a picture.

    Args:
        axes: ``matplotlib.axes.Axes`` of the picture.
        shape: Shape of the picture (H, W, ...) in pixels.
        metres_per_pixel: Ground size of these pixels.
    """
    from matplotlib.patches import Rectangle

    height, width = shape[:2]
    metres = scale_bar_length(width * metres_per_pixel)
    length = metres / metres_per_pixel
    label = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    # Sizes in inches like the label, to fit narrow pictures.
    inch = width / (axes.get_position().width * axes.figure.get_figwidth())
    pad, thick, text_height = 0.13 * inch, 0.04 * inch, 0.2 * inch
    wide = max(length, 0.095 * inch * len(label))
    x, y = pad, height - pad - thick
    back = Rectangle(
        (x - 0.4 * pad, y - text_height - 0.4 * pad),
        wide + 0.8 * pad,
        text_height + thick + 0.8 * pad,
        facecolor=INK,
        alpha=0.6,
        edgecolor="none",
    )
    axes.add_patch(back)
    left = x + (wide - length) / 2
    axes.add_patch(Rectangle((left, y), length, thick, facecolor=PAPER, edgecolor="none"))
    axes.text(
        x + wide / 2, y - 0.035 * inch, label, size=9.5, color=PAPER, ha="center", va="bottom"
    )
