"""The contract of all quantizers, and what several of them compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Numbers of a (positions x codes) matrix that are in memory at a time: 64 MB of float32.
CHUNK = 2**24
# Logarithm of the smallest probability: PyTorch's exp takes 13 times as long where it underflows.
SMALLEST = -87.0


@dataclass
class Quantized:
    """What a quantizer makes of a batch of latents.

    Attributes:
        latents: (B, N, D) latents for the decoder; gradients pass to the quantizer's input.
        indices: (B, N) or (B, N, Q) int64 codes; None for a Gaussian.
        losses: Weighted scalar losses, to be added up.
        grid: Height and width (h, w) of the latent map, N = h * w, row by row; None: not known.
        terms: Scalars behind the losses, before their weights.
        token_ids: (B, h, w) int64, slot of each cell, -1 for none, where decoding needs it.
    """

    latents: Tensor
    indices: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    grid: tuple[int, int] | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    token_ids: Tensor | None = None


class Quantizer(nn.Module):
    """Base class of quantizers: (B, N, ``in_channels``) -> :class:`Quantized`.

    Subclasses implement ``_quantize`` and ``_decode``. The computation runs in float32 (or
    float64) also under autocast, since distances and entropies lose their meaning in half
    precision; the latents are returned in the type they came in.

    Attributes:
        in_channels: Channels of the latents that the encoder hands over.
        embed_dims: Channels D of the latents that the decoder gets.
        codebook_sizes: Number of codes of each column of the indices; None without codes.
        indices_kind: What the Q columns of the indices are: ``"single"`` for (B, N) indices,
            ``"residual"`` for depths, of which later ones refine earlier ones, ``"product"`` for
            factors of one code; None without codes.
    """

    codebook_sizes: tuple[int, ...] | None = None
    indices_kind: str | None = None

    def __init__(self, in_channels: int, embed_dims: int | None = None) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.embed_dims = embed_dims or in_channels

    @property
    def codebook_size(self) -> int | None:
        """Number of codes of a column of the indices, that of the largest; None without codes."""
        return None if self.codebook_sizes is None else max(self.codebook_sizes)

    @property
    def depth(self) -> int | None:
        """Number of codes Q of a position; None without codes."""
        return None if self.codebook_sizes is None else len(self.codebook_sizes)

    @property
    def bits_per_token(self) -> float | None:
        """Bits of the codes of one position, if all are equally likely; None without codes."""
        if self.codebook_sizes is None:
            return None
        return float(sum(math.log2(size) for size in self.codebook_sizes))

    def forward(
        self, latents: Tensor, valid: Tensor | None = None, grid: tuple[int, int] | None = None
    ) -> Quantized:
        """Quantize latents.

        Args:
            latents: (B, N, in_channels).
            valid: (B, N) bool; the others cost nothing and change no statistics, but get codes
                too. None: all are valid.
            grid: Height and width of the latent map, N = h * w; passed on.

        Raises:
            ValueError: The shapes do not fit.
        """
        if latents.ndim != 3 or latents.shape[-1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} takes latents (B, N, {self.in_channels}), "
                f"found {tuple(latents.shape)}"
            )
        if valid is not None and valid.shape != latents.shape[:2]:
            raise ValueError(
                f"valid must be {tuple(latents.shape[:2])}, found {tuple(valid.shape)}"
            )
        if grid is not None and grid[0] * grid[1] != latents.shape[1]:
            raise ValueError(f"a grid of {grid} has not the {latents.shape[1]} latents given")
        precise = latents if latents.dtype == torch.float64 else latents.float()
        with torch.autocast(latents.device.type, enabled=False):
            result = self._quantize(precise, valid, grid)
        return replace(result, latents=result.latents.to(latents.dtype), grid=grid)

    def _quantize(
        self, latents: Tensor, valid: Tensor | None, grid: tuple[int, int] | None
    ) -> Quantized:
        """Quantize checked latents of float32 or float64."""
        raise NotImplementedError

    def _decode(self, codes: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """Return the latents of checked (B, N, Q) codes."""
        raise NotImplementedError

    def decode(self, indices: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the (B, N, D) latents of codes.

        Args:
            indices: Codes as :meth:`forward` returns them.
            grid: Height and width of the latent map, for quantizers that need it.

        Raises:
            ValueError: The shape does not fit, or a code is outside its codebook.
        """
        if self.codebook_sizes is None:
            raise ValueError(f"{type(self).__name__} has no codes: nothing to decode")
        single = self.indices_kind == "single"
        shape = "(B, N)" if single else f"(B, N, {self.depth})"
        if indices.ndim != (2 if single else 3) or not single and indices.shape[-1] != self.depth:
            raise ValueError(f"codes must be {shape}, found {tuple(indices.shape)}")
        columns = indices[..., None] if single else indices
        sizes = torch.tensor(self.codebook_sizes, device=indices.device)
        if ((columns < 0) | (columns >= sizes)).any():
            raise ValueError(
                f"codes must be from 0 to below {self.codebook_sizes}, found "
                f"{int(indices.min())} to {int(indices.max())}"
            )
        return self._decode(columns, grid)


def straight_through(values: Tensor, latents: Tensor) -> Tensor:
    """Return exactly the values, with the gradient of the latents."""
    return values.detach() + (latents - latents.detach())


def masked_mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of (B, N, ...) values over the valid positions; 0 if there are none."""
    if valid is None:
        return values.mean()
    kept = values[valid]
    return kept.sum() / max(1, kept.numel())


def valid_rows(latents: Tensor, valid: Tensor | None) -> Tensor:
    """Return the latents of the valid positions, (M, D)."""
    return latents.flatten(0, 1) if valid is None else latents[valid]


def in_chunks(function: Callable[[Tensor], Any], rows: Tensor, num_codes: int) -> list:
    """Return the results for parts of (M, D) rows, of at most CHUNK (rows x codes) numbers each.

    With several parts, intermediate results are not kept but computed again in the backward pass.
    """
    parts = rows.split(max(1, CHUNK // num_codes))
    if len(parts) == 1 or not torch.is_grad_enabled():
        return [function(part) for part in parts]
    return [checkpoint(function, part, use_reentrant=False) for part in parts]


@torch.no_grad()
def nearest_rows(rows: Tensor, table: Tensor) -> Tensor:
    """Return the row of a (K, D) table nearest to each of (..., D) rows, (...) int64."""
    # |x - e|^2 = |x|^2 - 2 (x.e - |e|^2 / 2), and |x|^2 is the same for all codes.
    return largest_logits(rows, table, table.square().sum(dim=-1) / -2)


@torch.no_grad()
def largest_logits(rows: Tensor, table: Tensor, bias: Tensor) -> Tensor:
    """Return the code k with the largest x.e_k + bias_k for each of (..., D) rows, (...) int64."""
    found = in_chunks(
        lambda part: torch.addmm(bias, part, table.T).argmax(dim=-1),
        rows.reshape(-1, rows.shape[-1]),
        len(table),
    )
    return torch.cat(found).reshape(rows.shape[:-1])


def code_entropies(
    rows: Tensor, log_probabilities: Callable[[Tensor], Tensor], num_codes: int
) -> tuple[Tensor, Tensor]:
    """Return the mean entropy of the codes of a position, and the entropy of their mean.

    Args:
        rows: (M, D) latents of valid positions.
        log_probabilities: (M, D) latents -> (M, K) logarithms of the probabilities of the codes.
        num_codes: K.
    """

    def part_sums(part: Tensor) -> tuple[Tensor, Tensor]:
        log_p = log_probabilities(part)
        p = log_p.clamp(min=SMALLEST).exp()
        return -(p * log_p).sum(), p.sum(dim=0)

    sums = in_chunks(part_sums, rows, num_codes)
    count = max(1, len(rows))
    sample = sum(entropy for entropy, _ in sums) / count
    return sample, entropy_of_mean(sum(p for _, p in sums) / count)


def entropy_of_mean(p: Tensor) -> Tensor:
    """Return the entropy of probabilities in nats, with the official 1e-5 in the logarithm."""
    return -(p * (p + 1e-5).log()).sum()
