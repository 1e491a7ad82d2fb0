"""Transformer blocks and rotary positions that the generators share."""

from dataclasses import dataclass

import torch
from timm.layers import apply_rot_embed, build_rotary_pos_embed
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.tokenizers.perception import dot_product_attention

# Orders of the parts of AdaLN in the output of its layer.
GATES_FIRST = ("gate1", "gate2", "scale1", "scale2", "shift1", "shift2")  # IBQ
SHIFTS_FIRST = ("shift1", "scale1", "gate1", "shift2", "scale2", "gate2")  # DiT
START_ROWS = ("identity", "zero")


def rotary_table(grid: tuple[int, int], head_dims: int, start: str | None = None) -> Tensor:
    """Return sine and cosine of rotary positions on a grid, (2, positions, head_dims).

    Adjacent channels are a pair. The first half of the pairs turns with the row, the second with
    the column, by 10000^(-2k / (head_dims / 2)) per position.

    Args:
        grid: Height and width; positions are ordered row by row.
        head_dims: Channels of a head, a multiple of 4.
        start: Adds a row for a start token in front: ``"identity"`` does not turn it; ``"zero"`` is
            the official row of zeros, with which its query and key vanish, so that all positions
            see it with the logit 0. None: no such row.

    Raises:
        ConfigError: The width of a head is no multiple of 4, or ``start`` is unknown.

    Reference:
        Su et al., "RoFormer", 2021, arXiv:2104.09864.
    """
    if head_dims % 4:
        raise ConfigError(
            "rotary positions need heads whose width is a multiple of 4",
            expected="embed_dims / num_heads as a multiple of 4",
            found=head_dims,
            remedy="change embed_dims or num_heads",
        )
    # In double precision, so that the rounded table is the same on all machines.
    pairs = head_dims // 4
    bands = 1e4 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    table = build_rotary_pos_embed(list(grid), bands, dim=head_dims, in_pixels=False)
    table = torch.stack(table)
    if start is None:
        return table
    if start not in START_ROWS:
        raise ConfigError(
            "network.start_rotary is unknown",
            expected=START_ROWS,
            found=start,
            remedy="choose one of them",
        )
    row = torch.zeros_like(table[:, :1])
    row[1] = float(start == "identity")
    return torch.cat([row, table], dim=1)


@dataclass
class Cache:
    """What a block keeps of earlier positions while codes are sampled one after the other.

    Attributes:
        capacity: Number of positions for which memory is taken at once, in passes without
            gradients; None: more with each position.
        keys: (B, heads, capacity, head_dims) rotated keys.
        values: (B, heads, capacity, head_dims).
        length: Number of positions so far.
        modulation: Parts of AdaLN, equal for all positions.
    """

    capacity: int | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    length: int = 0
    modulation: dict[str, Tensor] | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values of new positions; return all."""
        start, self.length = self.length, self.length + keys.shape[2]
        if self.capacity is None:
            if start:
                keys = torch.cat([self.keys, keys], dim=2)
                values = torch.cat([self.values, values], dim=2)
            self.keys, self.values = keys, values
            return keys, values
        if not start:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions and a cache.

    Args:
        embed_dims: Width of the tokens.
        num_heads: Heads of the queries.
        num_kv_heads: Heads of keys and values, a divisor of ``num_heads``; None: as many.
        bias: Whether the linear layers have a bias.
        causal: Whether a token sees only itself and those before it.
        norm_layer: Norm of queries and keys in each head; None for none.

    Raises:
        ConfigError: The numbers of heads do not fit.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        bias: bool = False,
        causal: bool = True,
        norm_layer: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        if embed_dims % num_heads or num_heads % num_kv_heads:
            raise ConfigError(
                "the numbers of attention heads do not fit",
                expected="num_heads that divides embed_dims, num_kv_heads that divides num_heads",
                found=f"embed_dims={embed_dims}, num_heads={num_heads}, "
                f"num_kv_heads={num_kv_heads}",
                remedy="change one of them",
            )
        self.head_dims, self.causal = embed_dims // num_heads, causal
        self.shared_keys = num_kv_heads < num_heads
        self.widths = (embed_dims, *[num_kv_heads * self.head_dims] * 2)
        self.qkv = nn.Linear(embed_dims, sum(self.widths), bias)
        self.q_norm = norm_layer(self.head_dims) if norm_layer else nn.Identity()
        self.k_norm = norm_layer(self.head_dims) if norm_layer else nn.Identity()
        self.proj = nn.Linear(embed_dims, embed_dims, bias)

    def forward(self, x: Tensor, rotary: Tensor | None, cache: Cache | None = None) -> Tensor:
        """Map tokens (B, n, D) to (B, n, D).

        Args:
            x: The tokens; with a cache that holds earlier ones, one token (n = 1).
            rotary: (2, n, head_dims) of :func:`rotary_table`; None for none.
            cache: Keys and values of earlier tokens, to which those of these are added.

        Raises:
            ValueError: Several tokens follow cached ones.
        """
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dims)).transpose(1, 2)
            for part in self.qkv(x).split(self.widths, dim=-1)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = apply_rot_embed(q, *rotary), apply_rot_embed(k, *rotary)
        if cache is not None:
            if cache.length and x.shape[1] > 1:
                raise ValueError("one token at a time can follow cached tokens")
            k, v = cache.append(k, v)
        causal = self.causal and x.shape[1] > 1
        x = dot_product_attention(q, k, v, is_causal=causal, enable_gqa=self.shared_keys)
        return self.proj(x.transpose(1, 2).flatten(2))


class Modulation(nn.Sequential):
    """Scales, shifts and gates from a condition (AdaLN): SiLU and a linear layer.

    Args:
        embed_dims: Width of the condition and of the tokens.
        names: Names of the parts in the order of the layer's output.
    """

    def __init__(self, embed_dims: int, names: tuple[str, ...]) -> None:
        super().__init__(nn.SiLU(), nn.Linear(embed_dims, len(names) * embed_dims))
        self.names = names

    def forward(self, condition: Tensor) -> dict[str, Tensor]:
        """Map a condition (B, 1, D) to parts (B, 1, D) by name."""
        parts = super().forward(condition).chunk(len(self.names), dim=-1)
        return dict(zip(self.names, parts, strict=True))


def modulate(x: Tensor, parts: dict[str, Tensor], number: str = "") -> Tensor:
    """Return ``x * (1 + scale) + shift``, as far as there are such parts."""
    if not parts:
        return x
    x = x * (1 + parts[f"scale{number}"])
    shift = parts.get(f"shift{number}")
    return x if shift is None else x + shift


class Block(nn.Module):
    """Norm, attention, norm and feed-forward layer, each with a residual connection.

    With a modulation, AdaLN: the normed tokens are scaled and shifted, and the results gated, as a
    condition says.

    Args:
        attn: The attention.
        mlp: The feed-forward layer.
        norms: The two norms.
        modulation: See :class:`Modulation`, of ``scale1``, ``gate1`` and optionally ``shift1`` of
            the attention, and likewise ``2`` of the feed-forward layer.
        drop_rate: Dropout of both results.
    """

    def __init__(
        self,
        attn: nn.Module,
        mlp: nn.Module,
        norms: tuple[nn.Module, nn.Module],
        modulation: Modulation | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norms
        self.attn, self.mlp, self.modulation = attn, mlp, modulation
        self.drop = nn.Dropout(drop_rate)

    def forward(
        self,
        x: Tensor,
        rotary: Tensor | None,
        condition: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Map tokens (B, n, D) to (B, n, D); see :class:`Attention`.

        Args:
            x: The tokens.
            rotary: Their rotary positions.
            condition: (B, 1, D), for the modulation.
            cache: Of earlier tokens.
        """
        parts = self._parts(condition, cache)
        for number, norm in (("1", self.norm1), ("2", self.norm2)):
            h = modulate(norm(x), parts, number)
            h = self.drop(self.attn(h, rotary, cache) if number == "1" else self.mlp(h))
            x = x + (h * parts[f"gate{number}"] if parts else h)
        return x

    def _parts(self, condition: Tensor | None, cache: Cache | None) -> dict[str, Tensor]:
        if self.modulation is None:
            return {}
        if cache is None:
            return self.modulation(condition)
        if cache.modulation is None:
            cache.modulation = self.modulation(condition)
        return cache.modulation


class FinalNorm(nn.Module):
    """Norm in front of a head, with or without AdaLN.

    Args:
        norm: The norm.
        modulation: See :class:`Modulation`, of ``scale`` and ``shift``.
    """

    def __init__(self, norm: nn.Module, modulation: Modulation | None = None) -> None:
        super().__init__()
        self.norm, self.modulation = norm, modulation

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map tokens (B, n, D) to (B, n, D)."""
        parts = {} if self.modulation is None else self.modulation(condition)
        return modulate(self.norm(x), parts)
