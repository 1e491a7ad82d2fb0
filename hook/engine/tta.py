"""Test-time augmentation: the mean over flips and 90-degree rotations, for all tasks."""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hook.tokenizers import ImageFacts

View = tuple[int, bool]

KINDS = ("flip", "d4")


def views(square: bool, kind: str = "d4") -> Iterator[View]:
    """Yield the views of an image as (number of 90-degree rotations, mirrored).

    Args:
        square: Whether the image is a square.
        kind: ``"flip"``: four views, the image and its flips; ``"d4"``: the eight symmetries of the
            square, or the four of a rectangle.
    """
    for mirrored in (False, True):
        for turns in (0, 1, 2, 3) if square and kind == "d4" else (0, 2):
            yield turns, mirrored


def apply_view(x: Tensor, view: View) -> Tensor:
    """Mirror and rotate the last two axes of (..., H, W)."""
    turns, mirrored = view
    return torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))


def undo_view(x: Tensor, view: View) -> Tensor:
    """Undo :func:`apply_view`."""
    turns, mirrored = view
    x = torch.rot90(x, -turns, (-2, -1))
    return x.flip(-1) if mirrored else x


def mean_over_views(
    predict: Callable[..., Tensor],
    inputs: Tensor,
    kind: str = "d4",
    facts: ImageFacts | None = None,
) -> Tensor:
    """Average predictions over all views.

    Args:
        predict: Function from images (B, C, H, W), and ``facts`` if set, to probabilities,
            (B, K, H, W) or (B, K).
        inputs: (B, C, H, W).
        kind: See :func:`views`.
        facts: Further facts about the images; their maps are rotated with the images.

    Returns:
        The mean, (B, K, H, W) on the grid of ``inputs`` or (B, K).
    """
    total, count = None, 0
    for view in views(inputs.shape[-2] == inputs.shape[-1], kind):
        turn = functools.partial(apply_view, view=view)
        arguments = () if facts is None else (facts.change_images(turn),)
        scores = predict(turn(inputs), *arguments)
        scores = undo_view(scores, view) if scores.ndim == 4 else scores
        total = scores if total is None else total + scores
        count += 1
    return total / count
