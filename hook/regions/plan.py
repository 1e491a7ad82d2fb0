"""How a scene is cut into regions, and what a model says of its windows."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hook.errors import SceneError
from hook.scenes.blocks import BlockPlan
from hook.scenes.grid import WindowGrid


class TokenBatch(NamedTuple):
    """What is known of the tokens of a batch of windows. Scores of one kind at most."""

    owners: np.ndarray
    """(B, h, w) integers: the token, from 0 to N - 1, that each pixel belongs to."""
    embeddings: np.ndarray
    """(B, N, D) real numbers."""
    token_scores: np.ndarray | None = None
    """(B, N, K) class probabilities of each token."""
    pixel_scores: np.ndarray | None = None
    """(B, K, h, w) class probabilities of each pixel."""


@dataclass(frozen=True)
class RegionPlan:
    """How a scene is cut into regions; the same in every process."""

    height: int
    width: int
    window: int
    overlap: float
    batch_size: int
    block_windows: int
    embed_dims: int
    bands: tuple[str, ...]
    class_names: tuple[str, ...] | None
    explode: bool
    merge: float | None

    @property
    def grid(self) -> WindowGrid:
        """The windows."""
        return WindowGrid(self.height, self.width, self.window, self.overlap)

    @property
    def blocks(self) -> BlockPlan:
        """The groups of windows."""
        return BlockPlan(self.grid, self.block_windows)

    @property
    def num_classes(self) -> int:
        """Number of classes K, 0 where there are none."""
        return len(self.class_names or ())


def check_answer(answer: TokenBatch, batch: int, plan: RegionPlan) -> TokenBatch:
    """Refuse a model's answer of another shape or with impossible values; copy it."""
    owners, embeddings, *scores = (None if a is None else np.asarray(a) for a in answer)
    side, k = plan.window, plan.num_classes
    number = embeddings.shape[1] if embeddings.ndim == 3 else 0
    wanted = [
        ("owners", owners, (batch, side, side)),
        ("embeddings", embeddings, (batch, max(number, 1), plan.embed_dims)),
        ("token_scores", scores[0], (batch, number, k)),
        ("pixel_scores", scores[1], (batch, k, side, side)),
    ]
    for name, array, shape in wanted:
        if array is not None and array.shape != shape:
            raise SceneError(
                f"the model's answer to a batch of windows: {name}",
                expected=f"shape {shape}",
                found=f"shape {array.shape}",
                remedy="check embed_dims and class_names, and that the model answers at the "
                "input's resolution",
            )
        if array is not None and name != "owners" and not np.isfinite(array).all():
            raise SceneError(
                f"the model's answer to a batch of windows: {name}",
                expected="finite numbers",
                found="NaN or infinity",
                remedy="check the model's weights and the scene's values",
            )
    given = sum(array is not None for array in scores)
    if given != (plan.class_names is not None):
        raise SceneError(
            "the model's answer to a batch of windows",
            expected="scores of tokens or of pixels with class_names, none without",
            found=f"{given} kinds of scores, {k} class names",
        )
    if owners.min() < 0 or owners.max() >= number:
        raise SceneError(
            "the model's answer to a batch of windows: owners",
            expected=f"0 to {number - 1}",
            found=f"{owners.min()} to {owners.max()}",
        )
    # Copies, because the model may use its buffers again before these are looked at.
    return TokenBatch(
        np.array(owners, np.int32),
        np.array(embeddings, np.float32),
        *(None if array is None else np.array(array, np.float32) for array in scores),
    )
