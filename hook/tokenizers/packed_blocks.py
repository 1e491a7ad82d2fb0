"""Transformer blocks, learned positions and pooling over packed tokens (AToken)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.tokenizers.packing import Packed
from hook.tokenizers.perception import dot_product_attention
from hook.tokenizers.positions import RotaryAxes, resize_positions

_EPS = 1e-6


def attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_counts: Sequence[int],
    counts: Sequence[int],
) -> Tensor:
    """Compute attention within each of several packed samples.

    Args:
        query: (M, heads, d).
        key: (K, heads, d).
        value: (K, heads, d).
        query_counts: Number of queries of each sample.
        counts: Number of keys of each sample.

    Returns:
        (M, heads * d).
    """
    if len(set(query_counts)) == len(set(counts)) == 1:  # one call for equal samples
        q, k, v = (x.unflatten(0, (len(counts), -1)).transpose(1, 2) for x in (query, key, value))
        return dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1).flatten(1)
    parts = zip(query.split(query_counts), key.split(counts), value.split(counts), strict=True)
    seen = [
        dot_product_attention(*(x.transpose(0, 1) for x in part)).transpose(0, 1) for part in parts
    ]
    return torch.cat(seen).flatten(1)


class HeadNorm(nn.Module):
    """Norm of queries or keys in each head: length sqrt(d) times a learned factor per channel.

    Args:
        num_heads: Number of heads.
        head_dims: Width d of a head.
    """

    def __init__(self, num_heads: int, head_dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(num_heads, head_dims))

    def forward(self, x: Tensor) -> Tensor:
        """Map (M, heads, d) to (M, heads, d)."""
        return F.normalize(x, dim=-1) * self.gamma * math.sqrt(x.shape[-1])


def _mlp(dims: int, hidden: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dims, hidden, bias), nn.GELU(approximate="tanh"), nn.Linear(hidden, dims, bias)
    )


def build_norm(dims: int, rms_norm: bool) -> nn.Module:
    """Build RMSNorm, or LayerNorm, with AToken's epsilon."""
    return (nn.RMSNorm if rms_norm else nn.LayerNorm)(dims, eps=_EPS)


class PackedBlock(nn.Module):
    """Pre-norm transformer block over packed tokens.

    Args:
        dims: Width of the tokens.
        num_heads: Attention heads.
        mlp_dims: Hidden width of the feed-forward layers.
        qk_norm: Norm of queries and keys in each head.
        rms_norm: RMSNorm instead of LayerNorm.
        bias: Whether the linear layers have biases.
    """

    def __init__(
        self, dims: int, num_heads: int, mlp_dims: int, qk_norm: bool, rms_norm: bool, bias: bool
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = build_norm(dims, rms_norm), build_norm(dims, rms_norm)
        self.qkv, self.proj = nn.Linear(dims, 3 * dims, bias), nn.Linear(dims, dims, bias)
        norms = [HeadNorm(num_heads, dims // num_heads) if qk_norm else nn.Identity() for _ in "qk"]
        self.q_norm, self.k_norm = norms
        self.mlp = _mlp(dims, mlp_dims, bias)

    def forward(
        self, x: Tensor, table: tuple[Tensor, Tensor] | None, counts: Sequence[int]
    ) -> Tensor:
        """Map tokens (M, D) to (M, D), with a :meth:`RotaryAxes.table` and tokens per sample."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q, k = RotaryAxes.rotate(q, table), RotaryAxes.rotate(k, table)
        x = x + self.proj(attend_packed(q, k, v, counts, counts))
        return x + self.mlp(self.norm2(x))


class PackedBlocks(nn.ModuleList):
    """Transformer blocks with rotary positions in four axes over packed tokens.

    Args:
        dims: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads of a block.
        mlp_dims: Hidden width of the feed-forward layers; None: four times the width.
        rotary: Whether queries and keys are rotated.
        ranges: See :class:`hook.tokenizers.positions.RotaryAxes`.
        qk_norm: See :class:`PackedBlock`, as the next two.
        rms_norm: RMSNorm instead of LayerNorm.
        bias: Whether the linear layers have biases.

    Raises:
        ValueError: The width of a head does not fit.
    """

    def __init__(
        self,
        dims: int,
        depth: int,
        num_heads: int,
        mlp_dims: int | None = None,
        rotary: bool = True,
        ranges: Sequence[tuple[float, float]] | None = None,
        qk_norm: bool = False,
        rms_norm: bool = False,
        bias: bool = True,
    ) -> None:
        if dims % num_heads:
            raise ValueError(f"embed_dims ({dims}) must be divisible by num_heads ({num_heads})")
        mlp_dims = mlp_dims or 4 * dims
        super().__init__(
            PackedBlock(dims, num_heads, mlp_dims, qk_norm, rms_norm, bias) for _ in range(depth)
        )
        self.rotary = RotaryAxes(dims // num_heads, ranges) if rotary else None

    def forward(self, packed: Packed) -> Packed:
        """Map packed tokens to packed tokens; those of a sample attend to each other."""
        x = packed.values
        table = None if self.rotary is None else self.rotary.table(packed.positions, x.dtype)
        for block in self:
            x = block(x, table, packed.counts)
        return packed.with_values(x)


class PositionTable(nn.Module):
    """Learned positions of a square grid, resized bilinearly to the rows and columns of a sample.

    Args:
        side: Side of the grid.
        dims: Width of the tokens.
    """

    def __init__(self, side: int, dims: int) -> None:
        super().__init__()
        self.side, self.weight = side, nn.Parameter(torch.randn(side**2, dims) * 0.02)

    def forward(self, packed: Packed) -> Tensor:
        """Return the position (M, D) of each patch."""
        side, first, tables, starts = (self.side, self.side), {}, [], []
        for grid in (grid[1:] for grids in packed.grids for grid in grids):
            if grid not in first:
                first[grid] = sum(map(len, tables))
                tables.append(resize_positions(self.weight[None], side, grid, "bilinear")[0])
            starts.append((first[grid], grid[1]))
        _, row, column, group = packed.places.T
        table = packed.samples * len(packed.grids[0]) + group
        start, width = torch.tensor(starts, device=table.device)[table].T
        return torch.cat(tables)[start + row * width + column]


class ProbePooling(nn.Module):
    """A learned probe attends to the tokens of a sample; its answer is a vector of length 1.

    Args:
        dims: Width of the tokens.
        num_heads: Attention heads.
        mlp_dims: Hidden width of the feed-forward layers.
        bias: Whether the linear layers have biases.
        rms_norm: RMSNorm instead of LayerNorm.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        mlp_dims: int | None = None,
        bias: bool = True,
        rms_norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.probe = nn.Parameter(torch.randn(dims) * dims**-0.5)
        self.to_q, self.to_kv = nn.Linear(dims, dims, bias), nn.Linear(dims, 2 * dims, bias)
        self.proj, self.norm = nn.Linear(dims, dims, bias), build_norm(dims, rms_norm)
        self.mlp = _mlp(dims, mlp_dims or 4 * dims, bias)

    def forward(self, packed: Packed) -> Tensor:
        """Map packed tokens of B samples to (B, D)."""
        batch = len(packed.counts)
        q = self.to_q(self.probe).unflatten(-1, (self.num_heads, -1)).expand(batch, -1, -1)
        k, v = self.to_kv(packed.values).unflatten(-1, (2, self.num_heads, -1)).unbind(1)
        x = self.proj(attend_packed(q, k, v, (1,) * batch, packed.counts))
        return F.normalize(x + self.mlp(self.norm(x)), dim=-1)
