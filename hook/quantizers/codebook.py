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
        restart: A code that falls out of use takes a random latent of the batch.
        restart_below: Moving average of the latents of a step assigned to a code below which it is
            out of use, 1 in the official code. None: half the mean over all codes, but at most 1.
            The two are the same for two or more latents of a step per code; with fewer, the former
            restarts codes in good use at every step.
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
        restart_below: float | None = None,
    ) -> None:
        super().__init__()
        self.ema, self.decay, self.restart, self.eps = ema, decay, restart, eps
        self.restart_below = restart_below
        rows = torch.randn(size, embed_dims) * (embed_dims**-0.5 if init_std is None else init_std)
        if ema:
            self.register_buffer("weight", rows)
            self.register_buffer("embed_ema", rows.clone())
        else:
            self.weight = nn.Parameter(rows)
        if ema or restart:
            self.register_buffer("cluster_size_ema", torch.full((size,), float(initial_count)))

    @torch.no_grad()
    def update(self, rows: Tensor, codes: Tensor, change: bool = True) -> None:
        """Take the latents of a training step into the statistics, and change the rows.

        Args:
            rows: (M, D) latents, or residuals, of valid positions.
            codes: (M,) their codes.
            change: Change the rows now; else :meth:`average` does.
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
        if self.ema and change:
            self.average()

    @torch.no_grad()
    def average(self) -> None:
        """Set the rows to their moving averages."""
        self.weight.copy_(self.embed_ema / self.smoothed_counts()[:, None])

    def smoothed_counts(self) -> Tensor:
        """Return the (K,) counts by which the sums of latents are divided."""
        total = self.cluster_size_ema.sum()
        share = (self.cluster_size_ema + self.eps) / (total + len(self.weight) * self.eps)
        return total * share

    def _restart(self, rows: Tensor) -> None:
        below, count = self.restart_below, 1.0
        if below is None:
            mean = float(self.cluster_size_ema.mean())
            below, count = min(1.0, mean / 2), min(1.0, mean)
        dead = self.cluster_size_ema < below
        if not dead.any():  # the same in all processes
            return
        found = self._candidates(rows)
        if _distributed():
            distributed.broadcast(found, src=0)
        if found.isnan().any():  # the first process had no valid latent
            return
        target, found = (self.embed_ema, found * count) if self.ema else (self.weight, found)
        target.copy_(torch.where(dead[:, None], found, target))
        self.cluster_size_ema.masked_fill_(dead, count)

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
