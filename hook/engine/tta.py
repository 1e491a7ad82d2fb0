"""Test-time augmentation: the mean over flips and quarter turns, in one place for all tasks."""

import functools
from collections.abc import Callable, Iterator

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

View = tuple[int, bool]

KINDS = ("flip", "d4")


def views(square: bool, kind: str = "d4") -> Iterator[View]:
    """Give the views of an image as (quarter turns, mirrored).

    Args:
        square: Whether the image is one.
        kind: ``"flip"``: the image and its flips, four views; ``"d4"``: also its quarter turns,
            the eight symmetries of the square. Of a rectangle both are the four that keep its
            shape.
    """
    for mirrored in (False, True):
        for turns in (0, 1, 2, 3) if square and kind == "d4" else (0, 2):
            yield turns, mirrored


def apply_view(x: Tensor, view: View) -> Tensor:
    """Turn and mirror the last two axes of (..., H, W)."""
    turns, mirrored = view
    return torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))


def undo_view(x: Tensor, view: View) -> Tensor:
    """Undo :func:`apply_view`."""
    turns, mirrored = view
    x = torch.rot90(x, -turns, (-2, -1))
    return x.flip(-1) if mirrored else x


def mean_over_views(
    predict: Callable[[Tensor], Tensor], inputs: Tensor, kind: str = "d4"
) -> Tensor:
    """Average predictions over all views.

    Args:
        predict: Images (B, C, H, W) to probabilities, (B, K, H, W) or (B, K).
        inputs: (B, C, H, W).
        kind: See :func:`views`.

    Returns:
        The mean, on the grid of ``inputs`` where it has one.
    """
    total, count = None, 0
    for view in views(inputs.shape[-2] == inputs.shape[-1], kind):
        scores = predict(apply_view(inputs, view))
        scores = undo_view(scores, view) if scores.ndim == 4 else scores
        total = scores if total is None else total + scores
        count += 1
    return total / count


def enable_tta(model: nn.Module, kind: str = "d4") -> None:
    """Make a model's ``test_step`` average over flips and quarter turns.

    Args:
        model: mmseg's ``EncoderDecoder`` or HOOK's classifier, not wrapped for distribution.
        kind: See :func:`views`.
    """
    step = _segment if hasattr(model, "decode_head") else _classify
    model.test_step = functools.partial(step, model, kind)


def _segment(model: nn.Module, kind: str, data: dict) -> list[BaseDataElement]:
    data = model.data_preprocessor(data, False)
    samples = data["data_samples"]
    metas = [sample.metainfo for sample in samples]

    def predict(inputs: Tensor) -> Tensor:
        logits = model.inference(inputs, metas).float()
        return logits.softmax(dim=1) if logits.shape[1] > 1 else logits.sigmoid()

    mean = mean_over_views(predict, data["inputs"], kind)
    # postprocess_result expects logits; these give back the mean under softmax and sigmoid.
    logits = mean.clamp_min(1e-12).log() if mean.shape[1] > 1 else torch.logit(mean, eps=1e-6)
    return model.postprocess_result(logits, samples)


def _classify(model: nn.Module, kind: str, data: dict) -> list[BaseDataElement]:
    data = model.data_preprocessor(data, False)

    def predict(inputs: Tensor) -> Tensor:
        return model(inputs, mode="tensor").float().softmax(dim=1)

    scores = mean_over_views(predict, data["inputs"], kind)
    for sample, score in zip(data["data_samples"], scores, strict=True):
        sample.pred_label = int(score.argmax())
        sample.pred_score = score
    return data["data_samples"]
