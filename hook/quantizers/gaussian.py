"""Gaussian latents with a KL term: continuous, without codes."""

from __future__ import annotations

import torch
from torch import Tensor

from hook.quantizers.base import Quantized, Quantizer, masked_mean


class GaussianQuantizer(Quantizer):
    """Diagonal Gaussian of each position: the encoder gives means and logarithms of variances.

    Training draws a sample, evaluation takes the mean (the official VA-VAE evaluates samples, too:
    ``sample_eval``).

    Args:
        embed_dims: Channels D of the latents; the encoder gives 2 D, the means first.
        kl_weight: Weight of ``loss_kl``.
        reduction: ``"sum"``: the divergence is added up over the positions and channels of an image
            and averaged over the images, the official form beside losses that add up over pixels.
            ``"mean"``: averaged over positions and channels as well, for losses that average over
            pixels. Equal weights in one and the other differ by (values of an image) / (values of
            its latents).
        logvar_range: Limits of the logarithm of the variance; None: none.
        sample_eval: Draw samples in evaluation, too.

    Reference:
        Rombach et al., "High-resolution image synthesis with latent diffusion models", CVPR 2022,
        arXiv:2112.10752; Yao et al., "Reconstruction vs. generation", CVPR 2025, arXiv:2501.01423.
    """

    def __init__(
        self,
        embed_dims: int,
        kl_weight: float = 1e-6,
        reduction: str = "sum",
        logvar_range: tuple[float, float] | None = (-30.0, 20.0),
        sample_eval: bool = False,
    ) -> None:
        super().__init__(2 * embed_dims, embed_dims)
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', found {reduction!r}")
        self.kl_weight = kl_weight
        self.reduction = reduction
        self.logvar_range = logvar_range
        self.sample_eval = sample_eval

    def _quantize(
        self, latents: Tensor, valid: Tensor | None, grid: tuple[int, int] | None
    ) -> Quantized:
        mean, logvar = self.moments(latents)
        kl = self.divergence(mean, logvar)
        if self.reduction == "mean":
            term = masked_mean(kl, valid)
        else:
            term = (kl if valid is None else kl[valid]).sum() / len(kl)
        drawn = self.training or self.sample_eval
        sample = self.sample(mean, logvar, torch.randn_like(mean)) if drawn else mean
        return Quantized(sample, None, {"loss_kl": self.kl_weight * term}, terms={"kl": term})

    def moments(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Split (B, N, 2 D) into the means and the limited logarithms of the variances."""
        mean, logvar = latents.chunk(2, dim=-1)
        return mean, logvar if self.logvar_range is None else logvar.clamp(*self.logvar_range)

    def sample(self, mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
        """Return mean + standard deviation * noise."""
        return mean + (logvar / 2).exp() * noise

    def divergence(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """Return the divergence from N(0, 1) of each channel of each position, in nats."""
        return (mean.square() + logvar.exp() - 1 - logvar) / 2
