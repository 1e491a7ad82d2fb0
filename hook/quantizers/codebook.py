"""A table of codes that learns by moving averages or by gradients, and restarts dead codes."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


class Codebook(nn.Module):
    """Table of K rows with the statistics of their use.

    With several processes, counts and sums are added up over all of them and restarted rows are
    those of the first, so that all keep one table.

    Args:
        size: Number of codes K.
        embed_dims: Channels D.
        ema: The rows are the moving averages of the latents assigned to them; otherwise they are a
            parameter.
        decay: Decay of the moving averages.
        restart: A code whose moving average of assigned latents per step falls below one takes a
            random latent of the batch.
        eps: Smooths the counts by which sums are divided.
        init_std: Standard deviation of the rows at the start; None: ``embed_dims ** -0.5``.
        initial_count: Count of each row at the start. The official code has 0: without restart, its
            unused rows grow to 1e5 in one step.
    """

    def __init__(
        self,
        size: int,
        embed_dims: int,
        ema: bool = True,
        decay: float = 0.99,
        restart: bool = True,
        eps: float = 1e-5,
        init_std: float | None = None,
        initial_count: float = 1.0,
    ) -> None:
        super().__init__()
        self.ema, self.decay, self.restart, self.eps = ema, decay, restart, eps
        rows = torch.randn(size, embed_dims) * (embed_dims**-0.5 if init_std is None else init_std)
        if ema:
            self.register_buffer("weight", rows)
            self.register_buffer("embed_ema", rows.clone())
        else:
            self.weight = nn.Parameter(rows)
        if ema or restart:
            self.register_buffer("cluster_size_ema", torch.full((size,), float(initial_count)))

    @torch.no_grad()
    def update(self, rows: Tensor, codes: Tensor) -> None:
        """Take the latents of a training step into the statistics, and change the rows.

        Args:
            rows: (M, D) latents, or residuals, of valid positions.
            codes: (M,) their codes.
        """
        if not (self.ema or self.restart):
            return
        rows = rows.detach().to(self.weight.dtype)
        counts = codes.bincount(minlength=len(self.weight)).to(rows.dtype)
        sums = torch.zeros_like(self.weight).index_add_(0, codes, rows) if self.ema else None
        if _distributed():
            distributed.all_reduce(counts)
            if self.ema:
                distributed.all_reduce(sums)
        if not counts.any():
            return
        self.cluster_size_ema.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        if self.ema:
            self.embed_ema.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        if self.restart:
            self._restart(rows)
        if self.ema:
            self.weight.copy_(self.embed_ema / self.smoothed_counts()[:, None])

    def smoothed_counts(self) -> Tensor:
        """Return the (K,) counts by which the sums of latents are divided."""
        total = self.cluster_size_ema.sum()
        share = (self.cluster_size_ema + self.eps) / (total + len(self.weight) * self.eps)
        return total * share

    def _restart(self, rows: Tensor) -> None:
        dead = self.cluster_size_ema < 1
        if not dead.any():  # the same in all processes
            return
        found = self._candidates(rows)
        if _distributed():
            distributed.broadcast(found, src=0)
        if found.isnan().any():  # the first process had no valid latent
            return
        target = self.embed_ema if self.ema else self.weight
        target.copy_(torch.where(dead[:, None], found, target))
        self.cluster_size_ema.masked_fill_(dead, 1)

    def _candidates(self, rows: Tensor) -> Tensor:
        """Return (K, D) random latents of the batch, with noise where they must be repeated."""
        size, width = self.weight.shape
        if not len(rows):
            return torch.full_like(self.weight, torch.nan)
        if len(rows) < size:
            rows = rows.repeat(-(-size // len(rows)), 1)
            rows = rows + torch.rand_like(rows) * (0.01 / width**0.5)
        return rows[torch.randperm(len(rows), device=rows.device)[:size]].contiguous()


def _distributed() -> bool:
    """Return whether several processes run."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )
