"""Draws what the model saw, what it should have said, what it said, and its tokens."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import LocalVisBackend

from hook.engine.drawing import (
    colour_classes,
    colour_tokens,
    default_palette,
    draw_panels,
    save_png,
    to_rgb,
)
from hook.registry import HOOKS

_NO_CLASS = 255 * 256  # beyond every palette: drawn as white


@HOOKS.register_module()
class TokenVisualizationHook(Hook):
    """Draw image, truth, prediction and token map side by side during validation or testing.

    The pictures go to ``<work_dir>/vis/<epoch or iteration>/`` as PNGs and to the visualizer's
    other back ends (TensorBoard, where the config names it). For scene classification, truth and
    prediction are in the title.

    Args:
        interval: Draw at every ``interval``-th validation, and at the last.
        max_images: Images per validation, the first of the data set.
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
        """Count validations, whatever unit the training loop counts in."""
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
        """Draw during testing, where asked."""
        if self.draw_test:
            self._draw_batch(runner, data_batch, outputs, "test", 0)

    def _draw_batch(self, runner, data_batch, outputs, name: str, step: int) -> None:
        if not is_main_process() or self._drawn >= self.max_images:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        meta = self._meta(runner, name)
        root = Path(self.out_dir) if self.out_dir else Path(runner.work_dir) / "vis" / name
        for image, sample in zip(data_batch["inputs"], outputs, strict=True):
            if self._drawn >= self.max_images:
                break
            picture = draw_sample(image, sample, meta, token_map_of(model, image))
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


@torch.no_grad()
def token_map_of(model: torch.nn.Module, image: torch.Tensor) -> np.ndarray | None:
    """Compute the token map of one image.

    Args:
        model: A model with ``data_preprocessor`` and ``backbone.tokenizer``, in any mode.
        image: (C, H, W), as the dataset gives it.

    Returns:
        (h, w) token index of each seed, or None where the model has no tokenizer.
    """
    from hook.tokenizers import token_map

    model = getattr(model, "module", model)  # test-time augmentation wraps the model
    tokenizer = getattr(getattr(model, "backbone", None), "tokenizer", None)
    if tokenizer is None:
        return None
    was_training = model.training
    model.eval()
    try:
        inputs = model.data_preprocessor({"inputs": [image]}, False)["inputs"]
        if isinstance(inputs, (list, tuple)):
            inputs = torch.stack(list(inputs))
        return token_map(tokenizer(inputs).assignment)[0].cpu().numpy()
    finally:
        model.train(was_training)


def draw_sample(
    image: torch.Tensor, sample: BaseDataElement, meta: dict, tokens: np.ndarray | None
) -> np.ndarray:
    """Draw one image with its truth, prediction and token map.

    Args:
        image: (C, H, W), as the dataset gives it.
        sample: The model's output for it: a SegDataSample or a ClsDataSample.
        meta: The dataset's metainfo: ``classes``, ``palette``, ``bands``.
        tokens: (h, w) token map, or None.

    Returns:
        (height, width, 3) uint8.
    """
    classes = tuple(meta.get("classes") or ())
    palette = meta.get("palette") or default_palette(max(len(classes), 1))
    valid = sample.valid_mask.data[0].cpu().numpy() if "valid_mask" in sample else None
    pixels = image.detach().float().cpu().numpy()
    if valid is not None and valid.shape != pixels.shape[1:]:
        valid = None
    rgb = to_rgb(pixels, valid, meta.get("bands"))
    panels, title, legend = [("image", rgb)], "", []
    if "pred_sem_seg" in sample:
        if "gt_sem_seg" in sample:
            truth = sample.gt_sem_seg.data[0].cpu().numpy()
            panels.append(("truth", colour_classes(truth, palette)))
        prediction = sample.pred_sem_seg.data[0].cpu().numpy()
        if valid is not None and valid.shape == prediction.shape:
            prediction = np.where(valid > 0, prediction, _NO_CLASS)
        panels.append(("prediction", colour_classes(prediction, palette)))
        legend = list(zip(classes, palette, strict=False))
    elif "pred_label" in sample:
        title = _describe_label(sample, classes)
    if tokens is not None:
        panels.append((f"{len(np.unique(tokens))} tokens", colour_tokens(tokens, rgb)))
    return draw_panels(panels, title, legend)


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
