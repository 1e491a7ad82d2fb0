"""The output of all tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from hook.tokenizers.assignment import dense_features, grid_features, spread_cells, token_map


@dataclass(frozen=True)
class TokenizerOutput:
    """Tokens of a batch of images: ``tokens, assignment = tokenizer(images)``.

    Attributes:
        tokens: (B, N, D) tokens, or (B, 1 + N, D) with the class token in front.
        weights: (B, N, h, w) weight of each token at each cell of the tokenizer's grid, without the
            class token. None for ``"grid"`` (an identity).
        assign: What the weights mean. ``"seed"``: they sum to one over the grid for each token;
            ``"token"``: to one over the tokens at each cell; ``"grid"``: token i is cell i.
        grid_size: Height and width (h, w) of the grid; required without weights.
        cell: Side of a cell in pixels; None: the grid is stretched over the image.
    """

    tokens: Tensor
    weights: Tensor | None
    assign: str
    grid_size: tuple[int, int] | None = None
    cell: int | None = None

    def __post_init__(self) -> None:
        if self.grid_size is None:
            object.__setattr__(self, "grid_size", tuple(self.weights.shape[-2:]))

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.tokens, self.assignment))

    @property
    def num_tokens(self) -> int:
        """Number of tokens N, the class token not counted."""
        if self.weights is not None:
            return self.weights.shape[1]
        return self.grid_size[0] * self.grid_size[1]

    @property
    def assignment(self) -> Tensor:
        """(B, N, h, w) weights; for ``"grid"`` an identity of N x N numbers, built on access."""
        if self.weights is not None:
            return self.weights
        n = self.num_tokens
        eye = torch.eye(n, dtype=self.tokens.dtype, device=self.tokens.device)
        return eye.reshape(1, n, *self.grid_size).expand(len(self.tokens), -1, -1, -1)

    def token_map(self, size: tuple[int, int] | None = None) -> Tensor:
        """Return the token with the largest weight at each cell, or at each pixel of ``size``.

        Returns:
            (B, h, w) or (B, H, W) int64 index of the token.
        """
        if self.weights is not None:
            return token_map(self.weights, size, self.cell)
        cells = torch.arange(self.num_tokens, device=self.tokens.device).reshape(1, *self.grid_size)
        cells = cells.expand(len(self.tokens), -1, -1)
        return cells if size is None else spread_cells(cells, size, self.cell)

    def dense_features(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Project (B, N, D) tokens without the class token to a grid: (B, D, *size)."""
        if self.weights is None:
            return grid_features(tokens, self.grid_size, size)
        return dense_features(tokens, self.weights, size, self.assign)

    def take(self, index: slice | Tensor) -> TokenizerOutput:
        """Select images of the batch."""
        weights = None if self.weights is None else self.weights[index]
        return replace(self, tokens=self.tokens[index], weights=weights)

    def cpu(self) -> TokenizerOutput:
        """Copy to the CPU."""
        weights = None if self.weights is None else self.weights.cpu()
        return replace(self, tokens=self.tokens.cpu(), weights=weights)


# torch.export flattens and rebuilds a model's output.
register_pytree_node(
    TokenizerOutput,
    lambda output: (
        [output.tokens, output.weights],
        (output.assign, output.grid_size, output.cell),
    ),
    lambda tensors, context: TokenizerOutput(*tensors, *context),
    serialized_type_name="hook.tokenizers.TokenizerOutput",
)


class SeedMap(NamedTuple):
    """Seeds of a batch of images after object perception.

    Attributes:
        features: (B, h, w, D) seeds; zero where not valid.
        valid: (B, h, w) bool; None: all are valid.
        colours: (B, C, h, w) mean of each band over a seed's valid pixels; None without diffusion.
        stem: (B, h, w, D) seeds before object perception; None unless the tokenizer keeps them.
    """

    features: Tensor
    valid: Tensor | None
    colours: Tensor | None = None
    stem: Tensor | None = None

    def take(self, index: Tensor) -> SeedMap:
        """Select images of the batch."""
        return SeedMap(*(None if part is None else part[index] for part in self))
