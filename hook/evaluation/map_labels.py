"""Labels of maps burnt into images, to measure how much of a text a codec leaves.

References:
    Lin et al., "VTBench: Evaluating visual tokenizers for autoregressive image generation",
    arXiv:2505.13439: text as a task of tokenizers.
"""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torchmetrics.functional.text import char_error_rate, word_error_rate

SIZES = (12, 16, 20, 28)  # of the font, in pixels
_HALO, _MARGIN = 2, 3  # pixels around letters, and around the label that a reader sees
_INK, _PAPER = (20, 20, 20), (255, 255, 255)
_FIRST = (
    "Alder Brenn Cole Dun East Fern Glen Harrow Iven Kirk Lang Mill North Oak Ross Wend".split()
)
_LAST = "bridge field ford gate haven hurst mere moor ness port stead ton wick wood".split()
_KINDS = ("", "", "", "Bay", "Hill", "Lake", "Road", "River")

Reader = Callable[[Sequence[np.ndarray]], list[str]]


@dataclass(frozen=True)
class MapLabel:
    """A text and its box in the image: first and last row and column, the last ones exclusive."""

    text: str
    box: tuple[int, int, int, int]

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the box of an image (3, H, W) as a picture (h, w, 3)."""
        top, bottom, left, right = self.box
        rows = slice(max(0, top - _MARGIN), bottom + _MARGIN)
        return image[:, rows, max(0, left - _MARGIN) : right + _MARGIN].transpose(1, 2, 0)


def burn_labels(
    image: np.ndarray, seed: int, sizes: Sequence[int] = SIZES
) -> tuple[np.ndarray, list[MapLabel]]:
    """Write a place name in each size, dark with a bright halo, below each other.

    Args:
        image: (3, H, W) uint8; 256 x 256 pixels hold the default sizes.
        seed: Seed of names and places.
        sizes: Sizes of the font (DejaVu Sans) in pixels.

    Returns:
        The image with its labels, (3, H, W) uint8, and the labels.
    """
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    draw = ImageDraw.Draw(picture)
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    fonts = [ImageFont.truetype(file, int(size)) for size in rng.permutation(sizes)]
    texts = [_place_name(rng) for _ in fonts]
    boxes = [
        draw.textbbox((0, 0), text, font, stroke_width=_HALO)
        for text, font in zip(texts, fonts, strict=True)
    ]
    spare = picture.height - sum(bottom - top for _, top, _, bottom in boxes)
    gaps = np.diff(np.sort(rng.integers(0, spare + 1, len(boxes))), prepend=0)
    labels, row = [], 0
    for text, font, (left, top, right, bottom), gap in zip(texts, fonts, boxes, gaps, strict=True):
        row += int(gap)
        column = int(rng.integers(0, picture.width - (right - left) + 1))
        options = dict(fill=_INK, stroke_width=_HALO, stroke_fill=_PAPER)
        draw.text((column - left, row - top), text, font=font, **options)
        box = (row, row + int(bottom - top), column, column + int(right - left))
        labels.append(MapLabel(text, box))
        row = box[1]
    return np.asarray(picture).transpose(2, 0, 1), labels


def _place_name(rng: np.random.Generator) -> str:
    name = str(rng.choice(_FIRST) + rng.choice(_LAST))
    return f"{name} {rng.choice(_KINDS)}".strip()


def find_reader() -> Reader | None:
    """Return a function from pictures (h, w, 3) of one label each to their texts.

    It is the text recognition of ``rapidocr-onnxruntime`` 1.4 (PP-OCRv4); None where that is not
    installed. Version 1.2, which pip takes on Python 3.13, has other models.
    """
    try:
        version = importlib.metadata.version("rapidocr-onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        return None
    if not version.startswith("1.4."):
        return None
    from rapidocr_onnxruntime import RapidOCR

    engine = RapidOCR()

    def read(pictures: Sequence[np.ndarray]) -> list[str]:
        found = []
        for picture in pictures:
            bgr = np.ascontiguousarray(picture[..., ::-1])
            lines, _ = engine(bgr, use_det=False, use_cls=False)
            found.append(" ".join(text for text, _ in lines or ()).strip())
        return found

    return read


def text_errors(read: Sequence[str], true: Sequence[str]) -> tuple[float, float]:
    """Return the error rates of characters and of words, in percent.

    They are edits over characters, and edits of whole words over words, of the true texts together;
    above 100 if more is read than was written.
    """
    both = list(read), list(true)
    return 100 * float(char_error_rate(*both)), 100 * float(word_error_rate(*both))
