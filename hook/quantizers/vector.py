"""Vector quantization with one codebook."""

from __future__ import annotations

from torch import Tensor

from hook.quantizers.base import (
    Quantized,
    Quantizer,
    masked_mean,
    nearest_rows,
    straight_through,
    valid_rows,
)
from hook.quantizers.codebook import Codebook


class VectorQuantizer(Quantizer):
    """The nearest row of a codebook, which learns by moving averages or by gradients.

    Args:
        codebook_size: Number of codes K.
        embed_dims: Channels D.
        ema: Rows are moving averages of the latents assigned to them; otherwise a gradient draws
            them there (``loss_codebook``, weight 1).
        commitment_weight: Weight of ``loss_commitment``, which draws latents to their codes.
        decay: Decay of the moving averages.
        restart: Codes that fall out of use take random latents of the batch.
        restart_below: See :class:`~hook.quantizers.Codebook`.
        init_std: Standard deviation of the rows at the start; None: ``embed_dims ** -0.5``.

    Reference:
        van den Oord et al., "Neural discrete representation learning", NeurIPS 2017,
        arXiv:1711.00937; restart: Dhariwal et al., "Jukebox", arXiv:2005.00341.
    """

    indices_kind = "single"

    def __init__(
        self,
        codebook_size: int,
        embed_dims: int,
        ema: bool = True,
        commitment_weight: float = 0.25,
        decay: float = 0.99,
        restart: bool = True,
        restart_below: float | None = None,
        init_std: float | None = None,
    ) -> None:
        super().__init__(embed_dims)
        self.codebook_sizes = (codebook_size,)
        self.commitment_weight = commitment_weight
        options = dict(decay=decay, restart=restart, restart_below=restart_below)
        self.codebook = Codebook(codebook_size, embed_dims, ema, init_std=init_std, **options)

    def _quantize(
        self, latents: Tensor, valid: Tensor | None, grid: tuple[int, int] | None
    ) -> Quantized:
        table = self.codebook.weight.to(latents.dtype)
        indices = nearest_rows(latents, table)
        chosen = table[indices]
        terms = {"commitment": masked_mean((latents - chosen.detach()).square(), valid)}
        losses = {"loss_commitment": self.commitment_weight * terms["commitment"]}
        if not self.codebook.ema:
            terms["codebook"] = masked_mean((chosen - latents.detach()).square(), valid)
            losses["loss_codebook"] = terms["codebook"]
        if self.training:
            codes = indices.flatten() if valid is None else indices[valid]
            self.codebook.update(valid_rows(latents, valid), codes)
        return Quantized(straight_through(chosen, latents), indices, losses, terms=terms)

    def _decode(self, codes: Tensor, grid: tuple[int, int] | None) -> Tensor:
        return self.codebook.weight[codes[..., 0]]
