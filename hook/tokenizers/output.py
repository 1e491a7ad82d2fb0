"""The contract every tokenizer fulfils."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node


class TokenizerOutput:
    """What a tokenizer makes of a batch of images; unpacks into tokens and assignment.

    Args:
        tokens: (B, N, D) tokens, or (B, 1 + N, D) with the class token in front.
        assignment: (B, N, h, w) weight of every token at every cell of the tokenizer's grid. The
            class token has no row. Only ``assign="grid"`` may leave it out.
        assign: What the weights sum to: ``"seed"``: one over the grid for each token;
            ``"token"``: one over the tokens for each cell; ``"grid"``: token i is cell i.
        grid_size: Height and width (h, w) of the grid, where there is no assignment.
    """

    __slots__ = ("_assignment", "assign", "grid_size", "tokens")

    def __init__(
        self,
        tokens: Tensor,
        assignment: Tensor | None,
        assign: str,
        grid_size: tuple[int, int] | None = None,
    ) -> None:
        self.tokens, self._assignment, self.assign = tokens, assignment, assign
        self.grid_size = grid_size if assignment is None else tuple(assignment.shape[-2:])

    @property
    def assignment(self) -> Tensor:
        """(B, N, h, w) weights; of a grid an identity of N x N numbers, made when asked for."""
        if self._assignment is not None:
            return self._assignment
        number = self.grid_size[0] * self.grid_size[1]
        identity = torch.eye(number, dtype=self.tokens.dtype, device=self.tokens.device)
        return identity.reshape(1, number, *self.grid_size).expand(len(self.tokens), -1, -1, -1)

    def cpu(self) -> "TokenizerOutput":
        """The same on the CPU."""
        weights = None if self._assignment is None else self._assignment.cpu()
        return TokenizerOutput(self.tokens.cpu(), weights, self.assign, self.grid_size)

    def __iter__(self) -> Iterator[Tensor]:
        """Give tokens and assignment."""
        return iter((self.tokens, self.assignment))


# torch.export takes a model's output apart and puts it together again.
register_pytree_node(
    TokenizerOutput,
    lambda output: ([output.tokens, output._assignment], (output.assign, output.grid_size)),
    lambda parts, rest: TokenizerOutput(*parts, *rest),
    serialized_type_name="hook.tokenizers.TokenizerOutput",
)


class SeedMap(NamedTuple):
    """Seeds of a batch of images after object perception.

    Attributes:
        features: (B, h, w, D) one feature vector per seed; zero where not valid.
        valid: (B, h, w) bool; None where every seed is valid.
        colours: (B, C, h, w) mean of each band over a seed's valid pixels; None where the
            tokenizer has no use for it.
    """

    features: Tensor
    valid: Tensor | None
    colours: Tensor | None = None

    def take(self, index: Tensor) -> "SeedMap":
        """Some images of the batch."""
        return SeedMap(*(None if part is None else part[index] for part in self))
