"""Pictures of a model's tokens: regions, attention, and several numbers of tokens.

Each function returns a picture, and writes it if a path is given.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hook.arguments import bad_argument, check_int, check_number, check_pair, check_path
from hook.errors import ConfigError, DataError
from hook.geo.arrays import is_data_array
from hook.geo.staging import check_output, exists, save_png
from hook.geo.styles import distinct_palette
from hook.tokenizers.assignment import resize_nearest
from hook.visualization.drawing import (
    FRAGMENT_SHARE,
    TINT,
    enlarge,
    figure_to_rgb,
    highlight_token,
    label_positions,
    luminance,
    outline_tokens,
    remove_fragments,
    render_attention,
    stretch_to_rgb,
    token_shares,
)
from hook.visualization.overview import INK, MUTED, PAPER, draw_scale_bar, scale_bar_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import nn

    from hook.inference.models import Model

__all__ = ["show_attention", "show_token_counts", "show_tokens"]

_DPI = 110
_PANEL = 4.8  # inches, the longer side of a picture
_FINE = 2  # oversampling, so that downsampling smooths lines
_LINE = 0.02  # inches, as _RIM
_RIM = 0.007
_COUNTS = (2, 4, 8, 16)
_KEY = (
    "Each place has the colour of its token; parts below "
    f"1/{round(1 / FRAGMENT_SHARE)} of the picture have no outline."
)


@dataclass
class _TokenView:
    """Tokens and predictions of one image.

    Attributes:
        name: File name, or empty.
        rgb: (H, W, 3) uint8.
        token_ids: (H, W) token of each pixel; -1 for nodata.
        attention: (N, h, w) weights of the tokenizer's assignment, on a grid that covers the image.
        assign: What the weights sum to; see :class:`hook.tokenizers.TokenizerOutput`.
        classes: Predicted class of each token as text; None if the head predicts none.
        heading: Heading of ``classes``.
        answer: Predicted class of the image, or empty.
        metres_per_pixel: Ground size of a pixel, if known.
    """

    name: str
    rgb: np.ndarray
    token_ids: np.ndarray
    attention: np.ndarray
    assign: str
    classes: list[str] | None
    heading: str
    answer: str
    metres_per_pixel: float | None

    @property
    def num_tokens(self) -> int:
        """Number of tokens N."""
        return len(self.attention)

    @property
    def size(self) -> str:
        """File name and size."""
        height, width = self.token_ids.shape
        name = self.name if len(self.name) <= 43 else f"{self.name[:20]}...{self.name[-20:]}"
        return ", ".join(filter(None, (name, f"{height} x {width} pixels")))


def show_tokens(
    model: "Model",
    image: str | os.PathLike | np.ndarray,
    *,
    valid: np.ndarray | None = None,
    bidx: Sequence[int | str] | None = None,
    num_tokens: int | None = None,
    metres_per_pixel: float | None = None,
    title: str | None = None,
    path: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> "Image":
    """Show the regions of the tokens of an image.

    The picture has the image, the image with each token's regions outlined and numbered, and a
    legend with each token's colour, number, share of the picture and, if the model has a head,
    class: the one predicted for most pixels of the region, or for the token alone by a head that
    pools the mean of the tokens. Colours of tokens are the same in all pictures.

    Args:
        model: A loaded model, or an argument of :func:`hook.apis.load_model`.
        image: A file, a DataArray, or native values (C, H, W) in the model's band order. It is used
            at its size, like a window of ``hook regions``, without the test pipeline.
        valid: (H, W), non-zero where an array's pixels are valid.
        bidx: Names or 1-based numbers of the bands of a file or DataArray in the model's order;
            None uses those of the model's dataset meta.
        num_tokens: Number of tokens; None uses the model's.
        metres_per_pixel: Ground size of a pixel, for the scale bar; None uses the file's, else
            the ``resolution`` of the model's dataset meta, else draws no bar.
        title: Title; None uses the number of tokens.
        path: PNG to write, atomically.
        overwrite: Replace an existing ``path``.

    Returns:
        PIL.Image.Image: RGB picture; ``numpy.asarray`` converts it to (height, width, 3) uint8.

    Raises:
        ConfigError: The model has no tokens or only patches, an option is invalid, or ``path``
            exists or is not a PNG in an existing folder.
        DataError: The image cannot be read, does not fit the model or has no valid pixel.
    """
    model = _check_options(model, image, path, overwrite, num_tokens, metres_per_pixel)
    view = _token_view(model, image, valid, num_tokens, metres_per_pixel, bidx)
    return _deliver(_tokens_figure(view, title), path)


def show_attention(
    model: "Model",
    image: str | os.PathLike | np.ndarray,
    token: int | None = None,
    *,
    at: tuple[int, int] | None = None,
    valid: np.ndarray | None = None,
    bidx: Sequence[int | str] | None = None,
    num_tokens: int | None = None,
    metres_per_pixel: float | None = None,
    title: str | None = None,
    path: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> "Image":
    """Show the attention of one token as a heat map over the image.

    The picture has the image with the token's region outlined, its attention over the grey image,
    and a colour bar: multiples of a uniform attention for ``assign="seed"``, the token's share of
    each seed for ``assign="token"``.

    Args:
        model: See :func:`show_tokens`.
        image: See :func:`show_tokens`.
        token: Token id, as numbered by :func:`show_tokens`.
        at: (row, column) of a pixel of the token, instead of ``token``.
        valid: See :func:`show_tokens`, like all that follow.
        bidx: Bands of the image.
        num_tokens: Number of tokens; None uses the model's.
        metres_per_pixel: Ground size of a pixel.
        title: Title; None names the token.
        path: PNG to write.
        overwrite: Replace an existing ``path``.

    Returns:
        PIL.Image.Image: See :func:`show_tokens`.

    Raises:
        ConfigError: As in :func:`show_tokens`, or the token does not exist, or not exactly one of
            ``token`` and ``at`` is given.
        DataError: As in :func:`show_tokens`, or ``at`` is outside the image or has no data.
    """
    model = _check_options(model, image, path, overwrite, num_tokens, metres_per_pixel)
    if (token is None) == (at is None):
        raise ConfigError(
            "one token is to be shown",
            expected="its number, or at=(row, column) of one of its pixels",
            found="neither" if token is None else "both",
            remedy="pass one of the two (--attention T, or --attention --at ROW COL)",
        )
    if at is None:
        token = check_int("token", token, minimum=None)
    else:
        at = _pixel(at)
    view = _token_view(model, image, valid, num_tokens, metres_per_pixel, bidx)
    if at is not None:
        token = _token_at(view, at)
    elif not 0 <= token < view.num_tokens:
        raise ConfigError(
            "no such token",
            expected=f"0 to {view.num_tokens - 1}",
            found=token,
            remedy="show_tokens, or 'hook tokens' without --attention, shows their numbers",
        )
    return _deliver(_attention_figure(view, token, at, title), path)


def show_token_counts(
    model: "Model",
    image: str | os.PathLike | np.ndarray,
    counts: Sequence[int] | None = None,
    *,
    at: tuple[int, int] | None = None,
    valid: np.ndarray | None = None,
    bidx: Sequence[int | str] | None = None,
    metres_per_pixel: float | None = None,
    title: str | None = None,
    path: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> "Image":
    """Show an image with several numbers of tokens.

    Args:
        model: See :func:`show_tokens`; trained with ``max_tokens`` it supports any number.
        image: See :func:`show_tokens`.
        counts: Numbers of tokens; None uses those of 2, 4, 8 and 16 that the model supports.
        at: (row, column) of a pixel; each picture highlights its region. None outlines all regions.
        valid: See :func:`show_tokens`, like all that follow.
        bidx: Bands of the image.
        metres_per_pixel: Ground size of a pixel.
        title: Title.
        path: PNG to write.
        overwrite: Replace an existing ``path``.

    Returns:
        PIL.Image.Image: See :func:`show_tokens`.

    Raises:
        ConfigError: As in :func:`show_tokens`, or ``counts`` is empty or exceeds the model's.
        DataError: As in :func:`show_tokens`, or ``at`` is outside the image or has no data.
    """
    from hook.inference.models import checked_tokens

    model = _check_options(model, image, path, overwrite, None, metres_per_pixel)
    tokenizer = model.backbone.tokenizer
    if at is not None:
        at = _pixel(at)
    if counts is None:
        maximum = tokenizer.max_tokens
        counts = [count for count in _COUNTS if count <= maximum] or [maximum]
    if isinstance(counts, str) or not hasattr(counts, "__len__"):
        raise bad_argument("counts", counts, "integers, such as (2, 4, 8)")
    if not len(counts):
        raise ConfigError(
            "no number of tokens is given",
            expected="one or more, such as (2, 4, 8)",
            remedy="set numbers of tokens (--counts 2,4,8)",
        )
    counts = [checked_tokens(model, check_int("counts", count)) for count in counts]
    views = [_token_view(model, image, valid, count, metres_per_pixel, bidx) for count in counts]
    if at is not None:
        for view in views:
            _token_at(view, at)
    note = ""
    if not tokenizer.nested and set(counts) != {tokenizer.num_tokens}:
        note = f"The model was trained with all its {tokenizer.num_tokens} tokens, not with fewer."
    return _deliver(_counts_figure(views, at, title, note), path)


# ------------------------------------------------------------------------------ what to show
def _tokenizer_of(model: "nn.Module") -> "nn.Module":
    """Return a model's tokenizer; raise ConfigError without one, or for patch embedding."""
    from hook.inference.models import backbone_with_tokens

    tokenizer = backbone_with_tokens(model).tokenizer
    if tokenizer.assign == "grid":
        raise ConfigError(
            f"{type(tokenizer).__name__} splits the image into squares: tokens have no regions",
            expected="a model with hook.HookTokenizer",
            remedy="use a model with a HOOK tokenizer",
        )
    return tokenizer


def _token_view(
    model: "nn.Module",
    image: str | os.PathLike | np.ndarray,
    valid: np.ndarray | None,
    num_tokens: int | None,
    metres_per_pixel: float | None,
    bidx: Sequence[int | str] | None = None,
) -> _TokenView:
    """Run a model on an image, and collect its tokens and predictions."""
    import torch
    from torch.nn.functional import interpolate

    from hook.evaluation.samples import no_prediction
    from hook.inference.windows import WindowPredictor

    names = tuple(model.dataset_meta["classes"])
    name, values, valid, known = _read(model, image, valid, bidx)
    predict = WindowPredictor(model, num_tokens=num_tokens, resolution=metres_per_pixel or known)
    try:
        (scores,), (tokens,) = predict.with_tokens(values[np.newaxis], valid[np.newaxis])
    except ConfigError as error:
        raise DataError(
            f"{name or 'the image'} does not fit the model",
            found=error.found or error.what,
            remedy="crop or resize it to the size the model was trained with",
        ) from None
    token_ids, (height, width) = tokens.token_map(), tokens.size
    attention, padded = tokens.output.assignment.float(), tuple(tokens.image.shape[-2:])
    if padded != (height, width):  # the preprocessor padded the image
        attention = interpolate(attention, padded, mode="bilinear")[..., :height, :width]
    classes, heading, answer = None, "", ""
    if not np.isfinite(scores[:, valid] if predict.segments else scores).all():
        raise no_prediction(name or "the image")
    if predict.segments:
        classes = _classes_of_regions(token_ids, scores.argmax(axis=0), names, tokens.num_tokens)
        heading = "class of most pixels"
    else:
        answer = f"{names[scores.argmax()]} ({_percent(scores.max(), 0)})"
        if getattr(model.head, "pooling", None) == "mean":
            with torch.inference_mode():
                alone = model.head(tokens.embeddings[:, None]).float().softmax(dim=1)
            classes = [f"{names[int(s.argmax())]} ({_percent(float(s.max()), 0)})" for s in alone]
            heading = "class of the token alone"
    return _TokenView(
        name,
        stretch_to_rgb(values, model.dataset_meta.get("bands"), valid),
        token_ids,
        attention[0].cpu().numpy(),
        tokens.output.assign,
        classes,
        heading,
        answer,
        metres_per_pixel or known,
    )


def _read(
    model: "nn.Module",
    image: str | os.PathLike | np.ndarray,
    valid: np.ndarray | None,
    bidx: Sequence[int | str] | None,
) -> tuple[str, np.ndarray, np.ndarray, float | None]:
    """Return name, values, validity and metres per pixel of an image, read or checked."""
    from rasterio import Affine

    from hook.geo.measure import metres_per_pixel
    from hook.inference.images import read_image

    size = model.dataset_meta.get("resolution")
    _, values, valid, sample = read_image(model, image, valid, bidx)
    if sample is None:
        return "", values, valid, size
    if "geo" in sample:
        geo = sample["geo"]
        grid = Affine(*geo["transform"])
        size = metres_per_pixel(geo["height"], geo["width"], grid, geo["crs"]) or size
    name = str(image.name or "") if is_data_array(image) else Path(image).name
    return name, values, valid, size


def _classes_of_regions(
    token_ids: np.ndarray, classes: np.ndarray, names: Sequence[str], count: int
) -> list[str]:
    """Return the class of most pixels of each token with its share, or an empty string."""
    owned = token_ids >= 0
    pixels = np.zeros((count, len(names)), np.int64)
    np.add.at(pixels, (token_ids[owned], classes[owned]), 1)
    return [
        f"{names[row.argmax()]} ({_percent(row.max() / row.sum(), 0)})" if row.any() else ""
        for row in pixels
    ]


def _pixel(at: object) -> tuple[int, int]:
    """Return a pixel's row and column, checked."""
    pair = check_pair("at", at, "two integers, row and column", "use at=(row, column)")
    return tuple(check_int("at", index, minimum=None) for index in pair)


def _token_at(view: _TokenView, at: tuple[int, int]) -> int:
    """Return the token id of a pixel; raise DataError if it is outside the image or has no data."""
    row, col = at
    height, width = view.token_ids.shape
    if not (0 <= row < height and 0 <= col < width):
        raise DataError(
            "the pixel is outside the image",
            expected=f"a row from 0 to {height - 1} and a column from 0 to {width - 1}",
            found=f"row {row}, column {col}",
            remedy="choose a pixel inside the image (--at ROW COL)",
        )
    token = int(view.token_ids[row, col])
    if token < 0:
        raise DataError(
            "the pixel has no data and no token",
            found=f"row {row}, column {col}",
            remedy="choose a valid pixel",
        )
    return token


# ------------------------------------------------------------------------------ how to show it
@dataclass
class _Canvas:
    """Image and token map enlarged to the size they are drawn at.

    Attributes:
        rgb: (kH, kW, 3) uint8, enlarged k times.
        token_ids: (kH, kW) token of each pixel; -1 for nodata.
        factor: k.
        width: Width in inches.
        height: Height in inches.
    """

    rgb: np.ndarray
    token_ids: np.ndarray
    factor: int
    width: float
    height: float

    @classmethod
    def of(cls, view: _TokenView, side: float) -> "_Canvas":
        """Enlarge an image for a panel with a longer side of ``side`` inches."""
        height, width = view.token_ids.shape
        factor = max(1, math.ceil(_FINE * side * _DPI / max(height, width)))
        size = (factor * height, factor * width)
        inches = side / max(height, width)
        return cls(
            enlarge(view.rgb, factor),
            resize_nearest(view.token_ids, size),
            factor,
            width * inches,
            height * inches,
        )

    @property
    def slot(self) -> float:
        """Width of the panel in inches, with a minimum for the text above narrow pictures."""
        return max(self.width, 3.3)

    @property
    def lines(self) -> dict[str, float]:
        """Options of outlines: a fixed width in inches, none around fragments."""
        per_inch = self.token_ids.shape[1] / self.width
        return {
            "width": max(_LINE * per_inch, 1),
            "rim": max(_RIM * per_inch, 1),
            "min_size": self.fragment,
        }

    @property
    def fragment(self) -> int:
        """Minimum size in pixels of a part of a region to be outlined."""
        return round(FRAGMENT_SHARE * self.token_ids.size)


class _Page:
    """Figure with positions and sizes in inches from its top left corner."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure((width, height), dpi=_DPI, facecolor=PAPER)

    def text(self, x: float, y: float, text: str, **style) -> None:
        """Write text with its baseline at (x, y), or aligned by ``va``."""
        style = {"size": 10, "color": INK} | style
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def head(self, title: str, lines: Sequence[str]) -> None:
        """Write the title and the lines below it."""
        self.text(_SIDE, 0.36, title, size=15, weight="bold")
        for k, line in enumerate(lines):
            self.text(_SIDE, 0.62 + 0.2 * k, line, color=MUTED)

    def axes(self, x: float, y: float, width: float, height: float) -> "Axes":
        """Add axes with a thin frame and no ticks."""
        left, bottom = x / self.width, 1 - (y + height) / self.height
        axes = self.figure.add_axes((left, bottom, width / self.width, height / self.height))
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color="#c5ccd3", linewidth=0.8)
        return axes

    def panel(
        self, x: float, y: float, canvas: _Canvas, picture: np.ndarray, title: str, note: str = ""
    ) -> "Axes":
        """Show a picture with text above it."""
        axes = self.axes(x, y, canvas.width, canvas.height)
        axes.imshow(picture, interpolation="antialiased", aspect="auto")
        self.text(x, y - 0.1, title, size=11.5, weight="bold")
        self.text(x + canvas.slot, y - 0.1, note, size=9.5, color=MUTED, ha="right")
        return axes


_SIDE, _GAP, _CAPTION = 0.3, 0.25, 0.34


def _tokens_figure(view: _TokenView, title: str | None) -> "Figure":
    canvas = _Canvas.of(view, _PANEL)
    shares = token_shares(view.token_ids, view.num_tokens)
    owning = int((shares > 0).sum())
    legend_x = _SIDE + 2 * (canvas.slot + _GAP)
    legend_w = 1.75 if view.classes is None else 3.3
    lines = [view.size]
    if view.answer:
        lines[0] += f"; the model's answer: {view.answer}"
    lines.append(_KEY)
    top = 0.75 + _CAPTION + 0.2 * (len(lines) - 1)
    tall = max(canvas.height, 2.4)
    page = _Page(legend_x + legend_w + _SIDE, top + tall + 0.3)
    note = "" if owning == view.num_tokens else f", {owning} of which own a region"
    page.head(title or f"{_plural(view.num_tokens, 'token')}{note}", lines)
    axes = page.panel(_SIDE, top, canvas, canvas.rgb, "Image")
    if view.metres_per_pixel:
        draw_scale_bar(axes, canvas.rgb.shape, view.metres_per_pixel / canvas.factor)
    outlined = outline_tokens(canvas.token_ids, canvas.rgb, tint=TINT, **canvas.lines)
    axes = page.panel(_SIDE + canvas.slot + _GAP, top, canvas, outlined, "Regions of the tokens")
    _write_numbers(axes, canvas)
    _write_legend(page, legend_x, top, tall, shares, view.classes, view.heading)
    return page.figure


def _write_numbers(axes: "Axes", canvas: _Canvas) -> None:
    """Write each token's number into its region, if there is space."""
    per_inch = canvas.token_ids.shape[1] / canvas.width
    regions = remove_fragments(canvas.token_ids, canvas.fragment)
    for token, (row, col, room) in label_positions(regions).items():
        if room >= 0.12 * per_inch:
            axes.text(col, row, str(token), va="center", ha="center", **_number_style(token))


def _number_style(token: int) -> dict:
    colour = np.array(distinct_palette(token + 1)[token])
    return {
        "size": 8.5,
        "weight": "bold",
        "color": INK if luminance(colour) > 0.18 else PAPER,
        "bbox": {
            "facecolor": colour / 255,
            "edgecolor": INK,
            "linewidth": 0.6,
            "boxstyle": "round,pad=0.25",
        },
    }


def _write_legend(
    page: _Page,
    x: float,
    y: float,
    height: float,
    shares: np.ndarray,
    classes: list[str] | None,
    heading: str,
) -> None:
    """List the tokens with pixels, largest first, as many as fit."""
    step = 0.29
    style = {"size": 9.5, "color": MUTED, "weight": "bold"}
    page.text(x, y - 0.1, "Token", **style)
    page.text(x + 1.3, y - 0.1, "share", ha="right", **style)
    if classes is not None:
        page.text(x + 1.5, y - 0.1, heading, **style)
    order = [int(token) for token in np.argsort(-shares, kind="stable") if shares[token] > 0]
    room = int(height / step)
    shown = order if len(order) <= room else order[: room - 1]
    for k, token in enumerate(shown):
        line = y + step * (k + 0.5)
        page.text(x + 0.2, line, str(token), va="center", ha="center", **_number_style(token))
        page.text(x + 1.3, line, _percent(shares[token]), va="center", ha="right")
        if classes is not None:
            page.text(x + 1.5, line, classes[token], va="center")
    if len(shown) < len(order):
        hidden = order[len(shown) :]
        line = y + step * (len(shown) + 0.5)
        page.text(x, line, f"{len(hidden)} more", va="center", color=MUTED)
        share = _percent(shares[hidden].sum())
        page.text(x + 1.3, line, share, va="center", ha="right", color=MUTED)


def _attention_figure(
    view: _TokenView, token: int, at: tuple[int, int] | None, title: str | None
) -> "Figure":
    canvas = _Canvas.of(view, _PANEL)
    share = token_shares(view.token_ids, view.num_tokens)[token]
    attention, limits, ticks, meaning = _heat(view, token)
    bar_x = _SIDE + 2 * (canvas.slot + _GAP)
    lines = [view.size]
    if at is not None:
        lines[0] += f"; + marks row {at[0]}, column {at[1]}, which this token owns"
    if view.assign == "seed":
        lines.append(
            "A place belongs to the token that looks at it most, even if that token looks more "
            "elsewhere."
        )
    top = 0.75 + _CAPTION + 0.2 * (len(lines) - 1)
    page = _Page(bar_x + 1.2, top + canvas.height + 0.3)
    page.head(title or f"Where token {token} of {view.num_tokens} looks", lines)
    lit = outline_tokens(canvas.token_ids, canvas.rgb, (token,), tint=TINT, **canvas.lines)
    axes = page.panel(
        _SIDE, top, canvas, lit, f"Region of token {token}", f"{_percent(share)} of the picture"
    )
    if at is not None:
        _mark(axes, canvas, at)
    if view.metres_per_pixel:
        draw_scale_bar(axes, canvas.rgb.shape, view.metres_per_pixel / canvas.factor)
    heat = render_attention(attention, canvas.rgb, limits, valid=canvas.token_ids >= 0)
    axes = page.panel(_SIDE + canvas.slot + _GAP, top, canvas, heat, "Attention")
    if at is not None:
        _mark(axes, canvas, at)
    # The bar is blended with middle grey, as the picture is with the image.
    ramp = np.linspace(limits[1], limits[0], 256)[:, np.newaxis]
    bar = render_attention(ramp, np.full((256, 8, 3), 128, np.uint8), limits)
    axes = page.axes(bar_x, top, 0.18, canvas.height)
    axes.imshow(bar, aspect="auto", extent=(0, 1, *limits))
    axes.yaxis.tick_right()
    axes.set_yticks(list(ticks), list(ticks.values()), size=9.5, color=INK)
    axes.set_ylabel(meaning, size=9.5, color=MUTED, labelpad=6)
    axes.yaxis.set_label_position("right")
    return page.figure


def _heat(
    view: _TokenView, token: int
) -> tuple[np.ndarray, tuple[float, float], dict[float, str], str]:
    """Return a token's attention (h, w), its limits, tick labels by value, and its unit."""
    attention = view.attention[token]
    if view.assign == "token":  # weights that sum to one over the tokens
        ticks = {value / 4: _percent(value / 4, 0) for value in range(5)}
        return attention, (0.0, 1.0), ticks, "share of each place that this token takes"
    # Weights that sum to one over the picture, or over its valid seeds.
    attention = attention / (attention[attention > 0].mean() if attention.any() else 1)
    top = max(float(attention.max()), 1.0)
    step = scale_bar_length(top * 5 / 4)  # 1, 2 or 5 times a power of ten: four to ten ticks
    values = np.arange(0, top * 1.0001, step)
    ticks = {float(value): f"{value:g}x" for value in values}
    return attention, (0.0, top), ticks, "times the attention of an even spread"


def _counts_figure(
    views: list[_TokenView], at: tuple[int, int] | None, title: str | None, note: str
) -> "Figure":
    panels = len(views) + 1
    columns = panels if panels <= 3 else math.ceil(math.sqrt(panels))
    rows = -(-panels // columns)
    canvases = [_Canvas.of(view, 3.9) for view in views]
    first = canvases[0]
    lines = [views[0].size]
    if at is not None:
        lines[0] += f"; lit: the region that holds the pixel in row {at[0]}, column {at[1]} (+)"
    else:
        lines.append(_KEY)
    if note:
        lines.append(note)
    top = 0.75 + _CAPTION + 0.2 * (len(lines) - 1)
    page = _Page(
        2 * _SIDE + columns * first.slot + (columns - 1) * _GAP,
        top + rows * first.height + (rows - 1) * (_CAPTION + 0.12) + 0.3,
    )
    default = "The same image in more and more tokens"
    page.head(title or (default if at is None else "The same place in more and more tokens"), lines)

    def position(k: int) -> tuple[float, float]:
        row, column = divmod(k, columns)
        step = first.height + _CAPTION + 0.12
        return _SIDE + column * (first.slot + _GAP), top + row * step

    axes = page.panel(*position(0), first, first.rgb, "Image")
    if views[0].metres_per_pixel:
        draw_scale_bar(axes, first.rgb.shape, views[0].metres_per_pixel / first.factor)
    if at is not None:
        _mark(axes, first, at)
    for k, (view, canvas) in enumerate(zip(views, canvases, strict=True), 1):
        name = _plural(view.num_tokens, "token")
        if at is None:
            picture = outline_tokens(canvas.token_ids, canvas.rgb, tint=TINT, **canvas.lines)
            page.panel(*position(k), canvas, picture, name)
            continue
        token = _token_at(view, at)
        share = token_shares(view.token_ids, view.num_tokens)[token]
        picture = highlight_token(canvas.token_ids, canvas.rgb, token, **canvas.lines)
        axes = page.panel(*position(k), canvas, picture, name, f"token {token}, {_percent(share)}")
        _mark(axes, canvas, at)
    return page.figure


def _mark(axes: "Axes", canvas: _Canvas, at: tuple[int, int]) -> None:
    """Draw a cross on a pixel of the image."""
    row, col = ((index + 0.5) * canvas.factor - 0.5 for index in at)
    for colour, size, line in ((INK, 13, 4.0), (PAPER, 12, 2.0)):
        axes.plot(col, row, "+", color=colour, markersize=size, markeredgewidth=line)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _check_options(
    model: "Model",
    image: str | os.PathLike | np.ndarray,
    path: str | os.PathLike | None,
    overwrite: bool,
    num_tokens: int | None,
    metres_per_pixel: float | None,
) -> "nn.Module":
    """Check options before the model runs, and return it loaded."""
    from hook.inference.models import checked_tokens, load_model, model_files

    if path is not None:
        _check_path(check_path("path", path), overwrite)
    if metres_per_pixel is not None:
        check_number("metres_per_pixel", metres_per_pixel, above=0)
    model = load_model(model)
    if path is not None:
        check_output(path, (image, *model_files(model)), ConfigError)
    _tokenizer_of(model)
    if num_tokens is not None:
        checked_tokens(model, num_tokens)
    return model


def _check_path(path: Path, overwrite: bool) -> None:
    """Raise ConfigError for a path that cannot be written."""
    if path.suffix.lower() != ".png":
        raise ConfigError(
            f"path={path}: pictures are written as PNG",
            expected="a name ending in .png",
            found=path.suffix or "no suffix",
            remedy=f"name it {path.stem or 'picture'}.png",
        )
    if not path.parent.is_dir():
        raise ConfigError(
            f"path={path} cannot be written",
            expected=f"an existing folder {path.parent}",
            found="a file" if path.parent.exists() else "none",
            remedy="create the folder or choose a different one",
        )
    if not exists(path, ConfigError):
        return
    if path.is_dir():
        raise ConfigError(
            f"path={path} is a folder",
            expected="the name of a picture",
            remedy="name a .png file in it",
        )
    if not overwrite:
        raise ConfigError(
            f"{path} exists already", remedy="choose a different output or overwrite (--overwrite)"
        )


def _deliver(figure: "Figure", path: str | os.PathLike | None) -> "Image":
    """Convert a figure to a picture, and write it if a path is given."""
    from PIL import Image

    picture = figure_to_rgb(figure)
    if path is not None:
        save_png(path, picture)
    return Image.fromarray(picture)
