"""Finite scalar quantization (FSQ)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hook.quantizers.base import Quantized, Quantizer, straight_through


class FiniteScalarQuantizer(Quantizer):
    """Each channel is bounded and rounded to one of a few levels; no codebook and no losses.

    Args:
        levels: Number of levels of each channel of a group; their product is the number of codes of
            a group. The first channel is the fastest in the index.
        groups: Number of groups of ``len(levels)`` channels. With several, indices are
            (B, N, groups), the factors of a product code.
        embed_dims: Channels D of the latents; if it is not ``groups * len(levels)``, the default,
            linear layers project in and out.

    Reference:
        Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", ICLR 2024,
        arXiv:2309.15505; groups: Lu et al., "AToken", arXiv:2509.14476.
    """

    def __init__(
        self, levels: Sequence[int], groups: int = 1, embed_dims: int | None = None
    ) -> None:
        if min(levels, default=0) < 2:
            raise ValueError(f"every channel needs at least 2 levels, found {list(levels)}")
        channels = groups * len(levels)
        super().__init__(embed_dims or channels)
        self.codebook_sizes = (math.prod(levels),) * groups
        self.indices_kind = "single" if groups == 1 else "product"
        projects = self.embed_dims != channels
        self.project_in = nn.Linear(self.embed_dims, channels) if projects else nn.Identity()
        self.project_out = nn.Linear(channels, self.embed_dims) if projects else nn.Identity()
        sizes = torch.tensor(levels)
        self.register_buffer("levels", sizes, persistent=False)
        basis = torch.cat([sizes.new_ones(1), sizes[:-1]]).cumprod(dim=0)
        self.register_buffer("basis", basis, persistent=False)

    def _quantize(
        self, latents: Tensor, valid: Tensor | None, grid: tuple[int, int] | None
    ) -> Quantized:
        groups = self.project_in(latents).unflatten(-1, (-1, len(self.levels)))
        # Slightly more than the range, so that the outer levels are reached by finite values; the
        # shift makes zero fall between levels if their number is even.
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        shift = (offset / half).atanh()
        bounded = (groups + shift.to(groups)).tanh() * half.to(groups) - offset.to(groups)
        steps = straight_through(bounded.round(), bounded)
        indices = ((steps.detach().long() + self.levels // 2) * self.basis).sum(dim=-1)
        quantized = self.project_out((steps / (self.levels // 2)).flatten(-2))
        return Quantized(quantized, indices[..., 0] if self.indices_kind == "single" else indices)

    def codes(self, indices: Tensor) -> Tensor:
        """Return the (..., Q, len(levels)) values in [-1, 1] of (..., Q) indices."""
        half = self.levels // 2
        steps = indices[..., None] // self.basis % self.levels - half
        return steps.to(torch.get_default_dtype()) / half

    def _decode(self, codes: Tensor, grid: tuple[int, int] | None) -> Tensor:
        return self.project_out(self.codes(codes).flatten(-2))
