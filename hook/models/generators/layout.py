"""Codes of images in one sequence with words."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodeLayout:
    """Token ids of codes after those of words: code 0 is ``words``, then come begin and end.

    All depths share one range of ids. An image is begin, the codes of the first slot or
    position in the order of their depth, those of the second, and so on, and end.

    Args:
        words: Number of words.
        codes: Number of codes of a depth.

    Reference:
        Chi et al., "Slot-MLLM", 2025, arXiv:2505.17726.
    """

    words: int
    codes: int

    @property
    def begin(self) -> int:
        """The id before an image."""
        return self.words + self.codes

    @property
    def end(self) -> int:
        """The id after an image."""
        return self.begin + 1

    def __len__(self) -> int:
        return self.end + 1

    def to_ids(self, codes: Tensor) -> Tensor:
        """Return the ids of an image, (N * Q + 2,), of codes (N, Q)."""
        ends = codes.new_tensor([[self.begin], [self.end]])
        return torch.cat([ends[0], codes.flatten() + self.words, ends[1]])

    def to_codes(self, ids: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the codes (N, Q) of the first image in generated ids (L,).

        An image is what follows begin, or all without one, up to end. Words in it are left out.
        Missing codes are 0, as in the official code; further ones are left out.
        """
        starts, stops = ((ids == one).nonzero()[:, 0] for one in (self.begin, self.end))
        first = int(starts[0]) + 1 if len(starts) else 0
        stops = stops[stops >= first]
        image = ids[first : int(stops[0]) if len(stops) else len(ids)]
        found = image[(image >= self.words) & (image < self.begin)] - self.words
        codes = ids.new_zeros(shape[0] * shape[1])
        found = found[: len(codes)]
        codes[: len(found)] = found
        return codes.view(*shape)
