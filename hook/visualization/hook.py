"""Hook that draws images, truth, predictions and tokens during validation or testing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import LocalVisBackend

from hook.geo.staging import save_png
from hook.geo.styles import distinct_palette
from hook.registry import HOOKS
from hook.structures import dates_as_rows
from hook.tokenizers.assignment import resize_nearest
from hook.visualization.drawing import (
    FRAGMENT_SHARE,
    TINT,
    enlarge,
    figure_to_rgb,
    outline_tokens,
    render_labels,
    stretch_to_rgb,
)

_LEGEND_CLASSES = 20
_PANEL, _DPI = 4.0, 100  # inches, dots per inch
_TOKEN_MAP_SIDE = 800  # minimum, larger than shown: downsampling smooths the outlines


@HOOKS.register_module()
class TokenVisualizationHook(Hook):
    """Draw image, truth, prediction and token map side by side during validation or testing.

    Of an autoencoder, image and reconstruction are drawn, stretched alike.

    The token map is that of the samples' tokens (see :class:`hook.models.TokenModel`), if any.
    Pictures are written to ``<work_dir>/vis/<epoch or iteration>/`` as PNGs and to the visualizer's
    other backends, such as TensorBoard. For scene classification, truth and prediction are in the
    title.

    Args:
        interval: Draw at every ``interval``-th validation, and at the last.
        max_images: Images per validation, the first of the dataset.
        draw_test: Draw during testing too.
        out_dir: Folder for the PNGs; ``<work_dir>/vis`` by default.
    """

    priority = "LOW"

    def __init__(
        self,
        interval: int = 1,
        max_images: int = 4,
        draw_test: bool = False,
        out_dir: str | None = None,
    ) -> None:
        self.interval = max(1, interval)
        self.max_images = max_images
        self.draw_test = draw_test
        self.out_dir = out_dir
        self._validations = 0
        self._drawn = 0

    def before_val_epoch(self, runner: Runner) -> None:
        """Count validations, in loops by epoch or by iteration."""
        self._validations += 1
        self._drawn = 0

    def before_test_epoch(self, runner: Runner) -> None:
        """Start a new set of pictures."""
        self._drawn = 0

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw the batch's images while fewer than ``max_images`` are drawn."""
        last = runner.train_loop is not None and (
            runner.epoch >= runner.max_epochs if runner.max_epochs else False
        )
        if self._validations % self.interval and not last:
            return
        by_epoch = runner.epoch > 0
        step = runner.epoch if by_epoch else runner.iter
        folder = f"{'epoch' if by_epoch else 'iter'}_{step}"
        self._draw_batch(runner, data_batch, outputs, f"val/{folder}", step)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw during testing, with ``draw_test``."""
        if self.draw_test:
            self._draw_batch(runner, data_batch, outputs, "test", 0)

    def _draw_batch(self, runner, data_batch, outputs, name: str, step: int) -> None:
        if not is_main_process() or self._drawn >= self.max_images:
            return
        meta = self._meta(runner, name)
        root = Path(self.out_dir) if self.out_dir else Path(runner.work_dir) / "vis" / name
        for image, sample in zip(data_batch["inputs"], outputs, strict=True):
            if self._drawn >= self.max_images:
                break
            tokens = sample.tokens.token_map() if "tokens" in sample else None
            picture = draw_sample(image, sample, meta, tokens)
            stem = Path(str(sample.get("img_path", "image"))).stem
            save_png(root / f"{self._drawn:03d}_{stem}.png", picture)
            for backend in runner.visualizer._vis_backends.values():
                if not isinstance(backend, LocalVisBackend):
                    backend.add_image(f"{name.split('/')[0]}/{self._drawn:03d}", picture, step)
            self._drawn += 1

    @staticmethod
    def _meta(runner: Runner, name: str) -> dict:
        loop = runner.test_loop if name == "test" else runner.val_loop
        return dict(getattr(loop.dataloader.dataset, "metainfo", {}))


def draw_sample(
    image: torch.Tensor, sample: BaseDataElement, meta: dict, tokens: np.ndarray | None
) -> np.ndarray:
    """Draw one image with its truth, prediction and token map.

    Args:
        image: (C, H, W), as returned by the dataset, or (T, C, H, W), drawn one below the other.
        sample: The model's output: a SegDataSample, ClsDataSample or CodecDataSample.
        meta: The dataset's metainfo: ``classes``, ``palette``, ``bands``.
        tokens: (H, W) token map, -1 for nodata; or None.

    Returns:
        (height, width, 3) uint8.
    """
    classes = tuple(meta.get("classes") or ())
    palette = meta.get("palette") or distinct_palette(max(len(classes), 1))
    # (1, H, W) in a PixelData, or (H, W)
    valid = sample.valid_mask.data.flatten(0, -2).cpu().numpy() if "valid_mask" in sample else None
    pixels = dates_as_rows(image.detach().float().cpu().numpy())
    if valid is not None and valid.shape != pixels.shape[1:]:
        valid = None
    panels, title, legend = ["image"], "", []
    if "reconstruction" in sample:  # stretched as the image is
        panels.append("reconstruction")
        decoded = dates_as_rows(sample.reconstruction.float().cpu().numpy())
        pixels = np.concatenate([pixels, decoded], axis=2)
        valid = None if valid is None else np.tile(valid, (1, 2))
    stretched = stretch_to_rgb(pixels, meta.get("bands"), valid)
    panels = list(zip(panels, np.split(stretched, len(panels), axis=1), strict=True))
    rgb = panels[0][1]
    if "pred_sem_seg" in sample:
        if "gt_sem_seg" in sample:
            truth = sample.gt_sem_seg.data[0].cpu().numpy()
            panels.append(("truth", render_labels(truth, palette)))
        prediction = sample.pred_sem_seg.data[0].cpu().numpy()
        if valid is not None and valid.shape == prediction.shape:
            prediction = np.where(valid > 0, prediction, -1)
        panels.append(("prediction", render_labels(prediction, palette)))
        legend = list(zip(classes, palette, strict=False))
    elif "pred_label" in sample:
        title = _describe_label(sample, classes)
    if tokens is not None:
        number = np.unique(tokens[tokens >= 0]).size
        panels.append((f"{number} token{'' if number == 1 else 's'}", draw_tokens(tokens, rgb)))
    return draw_panels(panels, title, legend)


def draw_tokens(tokens: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Outline and tint the regions of the tokens over their image.

    Args:
        tokens: (h, w) token ids on a grid that covers the image, negative without a token.
        image: (H, W, 3) uint8.

    Returns:
        (kH, kW, 3) uint8, with k above 1 for small images.
    """
    height, width = image.shape[:2]
    factor = -(-_TOKEN_MAP_SIDE // max(height, width))
    size = (factor * height, factor * width)
    scale = max(size) / (_PANEL * _DPI)  # drawn pixels per displayed pixel
    return outline_tokens(
        resize_nearest(tokens, size),
        enlarge(image, factor),
        width=1.5 * scale,
        rim=0.6 * scale,
        tint=TINT,
        min_size=round(FRAGMENT_SHARE * size[0] * size[1]),
    )


def draw_panels(
    panels: Sequence[tuple[str, np.ndarray]],
    title: str = "",
    legend: Sequence[tuple[str, Sequence[int]]] = (),
) -> np.ndarray:
    """Draw pictures side by side.

    Args:
        panels: Captions and (H, W, 3) uint8 pictures.
        title: Title of the figure.
        legend: Name and (r, g, b) of each class.

    Returns:
        (height, width, 3) uint8.
    """
    # Imported when used: matplotlib takes 0.5 s to load.
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(_PANEL * len(panels), _PANEL + 0.6), dpi=_DPI, layout="constrained")
    for axes, (caption, picture) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        reduced = max(picture.shape[:2]) > _PANEL * _DPI
        axes.imshow(picture, interpolation="antialiased" if reduced else "nearest")
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
    return figure_to_rgb(figure)


def _describe_label(sample: BaseDataElement, classes: Sequence[str]) -> str:
    def name(index) -> str:
        return classes[int(index)] if int(index) < len(classes) else str(int(index))

    parts = []
    if "gt_label" in sample:
        parts.append(f"truth: {name(sample.gt_label)}")
    score = ""
    if "pred_score" in sample:
        score = f" ({float(torch.as_tensor(sample.pred_score).max()):.0%})"
    parts.append(f"prediction: {name(sample.pred_label)}{score}")
    return "\n".join(parts)
