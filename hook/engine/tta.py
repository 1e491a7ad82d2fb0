"""Test-time augmentation: the mean over flips and quarter turns, in one place for all tasks."""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hook.tokenizers import ImageFacts

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
    predict: Callable[..., Tensor],
    inputs: Tensor,
    kind: str = "d4",
    facts: ImageFacts | None = None,
) -> Tensor:
    """Average predictions over all views.

    Args:
        predict: Images (B, C, H, W) to probabilities, (B, K, H, W) or (B, K); with ``facts`` it
            gets theirs as a second argument.
        inputs: (B, C, H, W).
        kind: See :func:`views`.
        facts: What else is known of the images; its maps are turned as they are.

    Returns:
        The mean, on the grid of ``inputs`` where it has one.
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
