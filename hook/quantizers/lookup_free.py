"""Lookup-free quantization (LFQ) with two-factor codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hook.quantizers.base import (
    Quantized,
    Quantizer,
    entropy_of_mean,
    masked_mean,
    straight_through,
    valid_rows,
)

MAX_GROUP_BITS = 24


class LookupFreeQuantizer(Quantizer):
    """Each channel becomes its sign: n channels are a code of n bits, without a codebook.

    Channel 0 is the lowest bit; zero counts as -1. The gradient passes unchanged. In eval mode the
    losses are zero, as in the official code.

    The entropy of the mean over all positions needs the probabilities of all 2^n codes. Bits are
    independent given the latent, so it is one product of two (positions, 2^(n/2)) matrices: exact,
    and 4 MB for 1,024 positions at 2^18 codes instead of 1 GB. ``entropy_bits`` splits it further.

    Args:
        bits: Number of channels n; there are 2^n codes.
        factors: Numbers of bits of the factors of a code, lowest first, such as (6, 12): indices
            are (B, N, 2), one column a factor. None: one index, (B, N).
        commitment_weight: Weight of ``loss_commitment``.
        entropy_weight: Weight of ``loss_entropy``.
        temperature: Temperature of the softmax of the entropies.
        sample_weight: Weight of the entropy of each position, which is made small.
        batch_weight: Weight of the entropy of the mean over all positions, which is made large.
        entropy_bits: Numbers of bits of groups, lowest first, whose entropies of the mean are
            added up. It does not see dependencies between groups. None: over all codes.

    Reference:
        Yu et al., "Language model beats diffusion", ICLR 2024, arXiv:2310.05737; two factors and
        weights: Luo et al., "Open-MAGVIT2", arXiv:2409.04410.
    """

    def __init__(
        self,
        bits: int,
        factors: Sequence[int] | None = None,
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.1,
        temperature: float = 0.01,
        sample_weight: float = 1.0,
        batch_weight: float = 1.0,
        entropy_bits: Sequence[int] | None = None,
    ) -> None:
        super().__init__(bits)
        for name, groups in (("factors", factors), ("entropy_bits", entropy_bits)):
            if groups is not None and (min(groups, default=0) < 1 or sum(groups) != bits):
                raise ValueError(f"{name} must be positive and add up to {bits}, found {groups}")
        if max(factors or (bits,)) > 62:
            raise ValueError(f"an index of int64 has at most 62 bits, found {bits}: give factors")
        self.entropy_bits = tuple(entropy_bits or (bits,))
        if max(self.entropy_bits) > MAX_GROUP_BITS:
            raise ValueError(
                f"the entropy over 2^{max(self.entropy_bits)} codes does not fit in memory: give "
                f"entropy_bits of at most {MAX_GROUP_BITS} each"
            )
        self.factors = tuple(factors or (bits,))
        self.indices_kind = "single" if factors is None else "product"
        self.codebook_sizes = tuple(2**n for n in self.factors)
        self.commitment_weight = commitment_weight
        self.entropy_weight = entropy_weight
        self.temperature = temperature
        self.sample_weight = sample_weight
        self.batch_weight = batch_weight

    def _quantize(
        self, latents: Tensor, valid: Tensor | None, grid: tuple[int, int] | None
    ) -> Quantized:
        positive = latents > 0
        signs = torch.where(positive, 1.0, -1.0).to(latents)
        zero = latents.new_zeros(())
        terms = dict.fromkeys(("sample_entropy", "batch_entropy", "entropy", "commitment"), zero)
        if self.training:
            sample, batch = self.entropies(valid_rows(latents, valid))
            terms = {
                "sample_entropy": sample,
                "batch_entropy": batch,
                "entropy": self.sample_weight * sample - self.batch_weight * batch,
                "commitment": masked_mean((latents - signs).square(), valid),
            }
        losses = {
            "loss_commitment": self.commitment_weight * terms["commitment"],
            "loss_entropy": self.entropy_weight * terms["entropy"],
        }
        return Quantized(
            straight_through(signs, latents), self._indices(positive), losses, terms=terms
        )

    def entropies(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean entropy of a position, and the entropy of the mean over positions.

        Args:
            rows: (M, bits) latents. Code c has the logit 2 z.c / temperature.
        """
        if not len(rows):
            return rows.sum(), rows.sum()
        logits = 4 * rows / self.temperature  # of a bit
        p = logits.sigmoid()
        bit_entropies = -(p * F.logsigmoid(logits) + (1 - p) * F.logsigmoid(-logits))
        batch = rows.new_zeros(())
        for group in rows.split(self.entropy_bits, dim=1):
            low, high = group.tensor_split([group.shape[1] // 2], dim=1)
            mean = self._probabilities(high).T @ self._probabilities(low) / len(rows)
            batch = batch + entropy_of_mean(mean)
        return bit_entropies.sum(dim=1).mean(), batch

    def _probabilities(self, rows: Tensor) -> Tensor:
        """Return the probabilities of all codes of (M, n) latents, (M, 2^n)."""
        codes = torch.arange(2 ** rows.shape[1], device=rows.device)
        return (2 * rows @ _signs(codes, rows.shape[1]).to(rows).T / self.temperature).softmax(-1)

    def _indices(self, positive: Tensor) -> Tensor:
        columns = []
        for bits in positive.split(self.factors, dim=-1):
            powers = 2 ** torch.arange(bits.shape[-1], device=bits.device)
            columns.append((bits * powers).sum(dim=-1))
        return columns[0] if self.indices_kind == "single" else torch.stack(columns, dim=-1)

    def _decode(self, codes: Tensor, grid: tuple[int, int] | None) -> Tensor:
        columns = zip(codes.unbind(dim=-1), self.factors, strict=True)
        signs = [_signs(column, bits) for column, bits in columns]
        return torch.cat(signs, dim=-1)


def _signs(codes: Tensor, bits: int) -> Tensor:
    """Return the (..., bits) signs of codes, lowest bit first."""
    shifts = torch.arange(bits, device=codes.device)
    return ((codes[..., None] >> shifts) & 1).float() * 2 - 1
