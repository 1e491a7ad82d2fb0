"""Residual quantization (RQ), with tables that may be drawn towards given embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hook.quantizers.base import (
    Quantized,
    Quantizer,
    masked_mean,
    nearest_rows,
    straight_through,
)
from hook.quantizers.codebook import Codebook


class ResidualQuantizer(Quantizer):
    """Q codes a position: each is the nearest row to what the earlier ones left.

    The latent of the decoder is the sum of the rows; gradients pass to the input once, not once a
    depth. Tables learn by moving averages. A shared table is updated between the depths of a
    training step unless it is deferred, so codes of training do not decode to the latents of that
    step: take codes in eval mode.

    Anchored tables (after UniCode): every ``anchor_interval`` steps, the rows become
    ``anchor_weight`` x rows + (1 - ``anchor_weight``) x anchor, and the sums of the moving averages
    accordingly, or the next step would undo it. 1 is the plain quantizer; with 0, the table is the
    anchor in every training step and learns nothing.

    Args:
        codebook_size: Number of codes K of a table.
        embed_dims: Channels D of the latents.
        depth: Number of codes Q.
        shared: One table for all depths. ``"deferred"``: it changes after the last depth of a
            training step, whose codes then decode to its latents (as in Slot-MLLM's library),
            rather than after each (as in RQ-VAE).
        fold: Rows and columns of the latent map that share their codes: their channels are put
            after each other, and indices are (B, N / (rows * columns), Q). Needs ``grid``.
        commitment_weight: Weight of ``loss_commitment``, the mean over the depths.
        decay: Decay of the moving averages.
        restart: Codes that fall out of use take random residuals of the batch.
        restart_below: See :class:`~hook.quantizers.Codebook`; the official value is 1.
        eps: See there.
        init_std: See there.
        initial_count: See there; the official value is 0.
        anchor: (K, D) embeddings, D that of the folded latents, or a safetensors file with this one
            tensor, which is read at the first training step.
        anchor_weight: Share of the table's own rows.
        anchor_interval: Training steps between two pulls.

    Reference:
        Lee et al., "Autoregressive image generation using residual quantization", CVPR 2022,
        arXiv:2203.01941; Zheng et al., "UniCode", ECCV 2024, arXiv:2403.09072.
    """

    indices_kind = "residual"

    def __init__(
        self,
        codebook_size: int,
        embed_dims: int,
        depth: int,
        shared: bool | str = True,
        fold: tuple[int, int] = (1, 1),
        commitment_weight: float = 0.25,
        decay: float = 0.99,
        restart: bool = True,
        restart_below: float | None = None,
        eps: float = 1e-5,
        init_std: float | None = None,
        initial_count: float = 1.0,
        anchor: Tensor | str | Path | None = None,
        anchor_weight: float = 1.0,
        anchor_interval: int = 1,
    ) -> None:
        super().__init__(embed_dims)
        self.codebook_sizes = (codebook_size,) * depth
        if shared not in (True, False, "deferred"):
            raise ValueError(f"shared must be True, False or 'deferred', found {shared!r}")
        self.fold, self.deferred = tuple(fold), shared == "deferred"
        self.commitment_weight = commitment_weight
        width = embed_dims * self.fold[0] * self.fold[1]
        options = dict(decay=decay, restart=restart, eps=eps)
        options |= dict(init_std=init_std, initial_count=initial_count, restart_below=restart_below)
        self.codebooks = nn.ModuleList(
            Codebook(codebook_size, width, **options) for _ in range(1 if shared else depth)
        )
        if not 0 <= anchor_weight <= 1 or anchor_interval < 1:
            raise ValueError(
                "anchor_weight must be from 0 to 1 and anchor_interval at least 1, found "
                f"{anchor_weight} and {anchor_interval}"
            )
        if anchor is None and anchor_weight < 1:
            raise ValueError(f"anchor_weight {anchor_weight} needs an anchor")
        if not isinstance(anchor, Tensor | str | Path | None):
            raise ValueError(f"anchor must be a tensor or a file, found a {type(anchor).__name__}")
        self.anchor, self.anchor_weight, self.anchor_interval = None, anchor_weight, anchor_interval
        if anchor_weight < 1:
            self.anchor = anchor
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def _quantize(
        self, latents: Tensor, valid: Tensor | None, grid: tuple[int, int] | None
    ) -> Quantized:
        cells = self.fold_latents(latents, grid)
        used, frozen = None, self.anchor is not None and self.anchor_weight == 0
        if self.training and frozen:
            self._pull()
        elif self.training:
            given = torch.ones_like(latents[..., :1], dtype=torch.bool)
            if valid is not None:
                given = valid[..., None]
            used = self.fold_latents(given, grid).all(dim=-1)
        codes, errors = [], []
        for column, total in self._depths(cells.detach(), used):
            codes.append(column)
            reached = self._unfold(total, grid)
            errors.append(masked_mean((latents - reached).square(), valid))
        if self.training and self.anchor is not None and not frozen:
            self._pull()
        terms = {f"error_depth{depth}": error.detach() for depth, error in enumerate(errors, 1)}
        terms["commitment"] = torch.stack(errors).mean()
        losses = {"loss_commitment": self.commitment_weight * terms["commitment"]}
        quantized = straight_through(reached, latents)
        return Quantized(quantized, torch.stack(codes, dim=-1), losses, terms=terms)

    def _depths(self, cells: Tensor, used: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the codes and the sum of the rows so far, depth by depth.

        Args:
            cells: (B, M, D) folded latents without gradients.
            used: (B, M) bool, the cells from which the tables learn; None: they do not.
        """
        rest, total = cells, torch.zeros_like(cells)
        for table in self._tables():
            codes = nearest_rows(rest, table.weight.to(rest.dtype))
            chosen = table.weight[codes].to(rest.dtype)
            if used is not None:
                table.update(rest[used], codes[used], change=not self.deferred)
            rest, total = rest - chosen, total + chosen
            yield codes, total
        if used is not None and self.deferred:
            for table in self.codebooks:
                table.average()

    def _tables(self) -> list[Codebook]:
        """Return the table of each depth."""
        return [self.codebooks[min(d, len(self.codebooks) - 1)] for d in range(self.depth)]

    def _decode(self, codes: Tensor, grid: tuple[int, int] | None) -> Tensor:
        return self.partial_sums(codes, grid)[-1]

    def partial_sums(self, indices: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the latents of the first 1, 2, ..., Q codes, (Q, B, N, D).

        Args:
            indices: (B, M, Q) codes, or their first columns.
            grid: Height and width of the latent map, if latents are folded.
        """
        sums = []
        for column, table in zip(indices.unbind(dim=-1), self._tables(), strict=False):
            row = table.weight[column]
            sums.append(row if not sums else sums[-1] + row)
        return torch.stack([self._unfold(total, grid) for total in sums])

    @torch.no_grad()
    def soft_codes(
        self, latents: Tensor, temperature: float = 1.0, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the softmax of -|residual - row|^2 / temperature, (B, M, Q, K).

        The residual of the next depth is that of the nearest row. Targets of a generator.
        """
        rest, soft = self.fold_latents(latents, grid), []
        for table in self._tables():
            rows = table.weight.to(rest.dtype)
            # |residual|^2 is the same for all rows
            closeness = 2 * rest @ rows.T - rows.square().sum(dim=-1)
            soft.append((closeness / temperature).softmax(dim=-1))
            rest = rest - rows[nearest_rows(rest, rows)]
        return torch.stack(soft, dim=-2)

    @torch.no_grad()
    def _pull(self) -> None:
        """Draw the tables towards the anchor, every ``anchor_interval`` steps."""
        table = self.codebooks[0].weight
        if not isinstance(self.anchor, Tensor):
            try:
                (tensor,) = load_file(str(self.anchor)).values()
            except (OSError, SafetensorError, ValueError) as error:
                raise ValueError(
                    f"anchor: {self.anchor} must be a safetensors file of one tensor ({error})"
                ) from error
            self.anchor = tensor
        if self.anchor.shape != table.shape:
            raise ValueError(
                f"the anchor must be {tuple(table.shape)}, found {tuple(self.anchor.shape)}"
            )
        self.anchor = self.anchor.to(table)
        self.steps += 1
        if self.anchor_weight and self.steps % self.anchor_interval:
            return
        for codebook in self.codebooks:
            codebook.weight.lerp_(self.anchor, 1 - self.anchor_weight)
            sums = self.anchor * codebook.smoothed_counts()[:, None]
            codebook.embed_ema.lerp_(sums, 1 - self.anchor_weight)

    def fold_latents(self, latents: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """Put the channels of the positions of a cell after each other: (B, M, rows*columns*D)."""
        rows, columns = self.fold
        if rows == columns == 1:
            return latents
        height, width = self._folded_size(grid)
        parts = latents.unflatten(1, (height, rows, width, columns)).transpose(2, 3)
        return parts.flatten(3).flatten(1, 2)

    def _unfold(self, cells: Tensor, grid: tuple[int, int] | None) -> Tensor:
        rows, columns = self.fold
        if rows == columns == 1:
            return cells
        parts = cells.unflatten(1, self._folded_size(grid)).unflatten(3, (rows, columns, -1))
        return parts.transpose(2, 3).flatten(1, 4)

    def _folded_size(self, grid: tuple[int, int] | None) -> tuple[int, int]:
        if grid is None or grid[0] % self.fold[0] or grid[1] % self.fold[1]:
            raise ValueError(
                f"fold {self.fold} needs the grid (h, w) of the latents, in multiples of it; "
                f"found {grid}"
            )
        return grid[0] // self.fold[0], grid[1] // self.fold[1]
