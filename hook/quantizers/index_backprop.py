"""Index backpropagation quantization (IBQ)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hook.quantizers.base import (
    Quantized,
    Quantizer,
    code_entropies,
    in_chunks,
    largest_logits,
    masked_mean,
    valid_rows,
)


class IndexBackpropQuantizer(Quantizer):
    """Codebook whose rows all learn at every step, through the softmax over the codes.

    The code of a position is that of the largest logit z.e, without distances or normalization. The
    gradient of the chosen row passes to all logits (straight-through on the categorical
    distribution), so no code dies for want of gradients.

    Logits of many positions are computed in chunks, and again in the backward pass. Without
    gradients, in eval mode, there is no ``loss_entropy``, which would double the cost of encoding.

    Args:
        codebook_size: Number of codes K.
        embed_dims: Channels D.
        beta: Weight of the term that draws codes to the latents.
        quant_weight: Weight of the loss of quantization (``loss_quant``).
        entropy_weight: Weight of the loss of entropy (``loss_entropy``); None: without that loss.
        temperature: Temperature of the softmax of the entropies.
        sample_weight: Weight of the entropy of each position, which is made small.
        batch_weight: Weight of the entropy of the mean over all positions, which is made large.
        init_std: Standard deviation of the rows at the start. None: ``embed_dims ** -0.5``, so
            that logits do not grow with D; the official code has 1, with which the use of codes
            falls to a few for wide latents.

    Reference:
        Shi et al., "Scalable image tokenization with index backpropagation quantization",
        ICCV 2025, arXiv:2412.02692.
    """

    indices_kind = "single"

    def __init__(
        self,
        codebook_size: int,
        embed_dims: int,
        beta: float = 0.25,
        quant_weight: float = 1.0,
        entropy_weight: float | None = 0.05,
        temperature: float = 0.01,
        sample_weight: float = 1.0,
        batch_weight: float = 1.0,
        init_std: float | None = None,
    ) -> None:
        super().__init__(embed_dims)
        self.codebook_sizes = (codebook_size,)
        self.beta = beta
        self.quant_weight = quant_weight
        self.entropy_weight = entropy_weight
        self.temperature = temperature
        self.sample_weight = sample_weight
        self.batch_weight = batch_weight
        std = embed_dims**-0.5 if init_std is None else init_std
        self.codebook = nn.Parameter(torch.randn(codebook_size, embed_dims) * std)

    def _quantize(
        self, latents: Tensor, valid: Tensor | None, grid: tuple[int, int] | None
    ) -> Quantized:
        table = self.codebook.to(latents.dtype)
        indices = largest_logits(latents, table, table.new_zeros(len(table)))
        quantized = chosen = table[indices]
        if torch.is_grad_enabled():
            # The value of the chosen row, and the gradient of the expectation over all rows: to
            # the table through the row, to the logits through the softmax.
            expected = in_chunks(
                lambda rows: (rows @ table.T).softmax(dim=-1) @ table.detach(),
                latents.flatten(0, 1),
                len(table),
            )
            expected = torch.cat(expected).reshape(latents.shape)
            quantized = chosen + (expected - expected.detach())
        terms = {
            "double": masked_mean((quantized - latents).square(), valid),
            "encoder": masked_mean((chosen.detach() - latents).square(), valid),
            "codebook": masked_mean((chosen - latents.detach()).square(), valid),
        }
        terms["quant"] = terms["double"] + terms["encoder"] + self.beta * terms["codebook"]
        losses = {"loss_quant": self.quant_weight * terms["quant"]}
        if self.entropy_weight is not None and (self.training or torch.is_grad_enabled()):
            sample, batch = code_entropies(
                valid_rows(latents, valid),
                lambda rows: F.log_softmax(rows @ table.T / self.temperature, dim=-1),
                len(table),
            )
            entropy = self.sample_weight * sample - self.batch_weight * batch
            terms |= {"sample_entropy": sample, "batch_entropy": batch, "entropy": entropy}
            losses["loss_entropy"] = self.entropy_weight * entropy
        return Quantized(quantized, indices, losses, terms=terms)

    def _decode(self, codes: Tensor, grid: tuple[int, int] | None) -> Tensor:
        return self.codebook[codes[..., 0]]
