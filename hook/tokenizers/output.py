"""The contract every tokenizer fulfils."""

from typing import NamedTuple

from torch import Tensor


class TokenizerOutput(NamedTuple):
    """What a tokenizer makes of a batch of images.

    Attributes:
        tokens: (B, N, D) tokens, or (B, 1 + N, D) with the class token in front.
        assignment: (B, N, h, w) weight of every token at every cell of the tokenizer's grid. The
            class token has no row. What the weights sum to is the tokenizer's ``assign``:
            ``"seed"``: one over the grid for each token; ``"token"``: one over the tokens for each
            cell; ``"grid"``: token i is cell i.
    """

    tokens: Tensor
    assignment: Tensor


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
