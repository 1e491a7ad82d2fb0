"""Slots: tokens that compete for the inputs (Slot-MLLM's cross-attention and Q-Former)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.tokenizers.perception import key_bias

SLOT_MODES = ("gru", "morph")
"""Attentions in which slots compete, see :class:`SlotAttention`."""
_EPS, _NORM_EPS = 1e-6, 1e-12


class SlotReading(NamedTuple):
    """Output of :class:`SlotAttention`."""

    slots: Tensor
    """(B, N, D)."""
    assignment: Tensor
    """(B, heads, N, S); of slots that compete, its mean over the heads (``"morph"``) or its sum
    (``"gru"``) sums to one over the slots of an input."""
    weights: Tensor
    """(B, heads, N, S) with which the values of the inputs are added up."""


class SlotAttention(nn.Module):
    """Multi-head cross-attention of slots to inputs, a projection, the residual, and a norm.

    - ``"gru"``: for each input, a softmax over heads and slots together; a slot's new state is a
      GRU of the weighted means of the values, and an MLP; ``num_iterations`` times.
    - ``"morph"``: once, for each input and head a softmax over the slots, divided by its sum over
      the inputs plus one.
    - ``"plain"``: once, for each slot and head a softmax over the inputs.

    Args:
        dims: Width of the slots.
        input_dims: Width of the inputs.
        num_heads: Attention heads.
        mode: ``"gru"``, ``"morph"`` or ``"plain"``.
        num_iterations: Readings of ``"gru"``.
        half: Only the first half of the slots of ``"gru"`` learns from the inputs.
        causal: A slot of ``"plain"`` attends to inputs up to its own number, as in attention of
            slots to themselves.

    Raises:
        ValueError: An option is out of range, or does not belong to the mode.

    Reference:
        Chi et al., "Slot-MLLM: object-centric visual tokenization for multimodal LLM", 2025,
        arXiv:2505.17726; Locatello et al., "Object-centric learning with slot attention", NeurIPS
        2020, arXiv:2006.15055. Padding costs nothing here; the official masks have no effect.
    """

    def __init__(
        self,
        dims: int,
        input_dims: int,
        num_heads: int,
        mode: str = "gru",
        num_iterations: int = 3,
        half: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if mode not in ("plain", *SLOT_MODES):
            raise ValueError(f"mode must be 'gru', 'morph' or 'plain', got {mode!r}")
        if dims % num_heads:
            raise ValueError(f"{dims} dims cannot be divided by {num_heads} heads")
        if half and mode != "gru" or causal and mode != "plain":
            raise ValueError(f"half is of 'gru' and causal of 'plain', got mode {mode!r}")
        self.mode, self.num_heads, self.half, self.causal = mode, num_heads, half, causal
        self.num_iterations = num_iterations
        self.query = nn.Linear(dims, dims)
        self.key, self.value = nn.Linear(input_dims, dims), nn.Linear(input_dims, dims)
        if mode == "gru":
            self.norm_slots, self.norm_mlp = nn.LayerNorm(dims), nn.LayerNorm(dims)
            self.gru = nn.GRUCell(dims, dims)
            self.mlp = nn.Sequential(nn.Linear(dims, dims), nn.ReLU(), nn.Linear(dims, dims))
        self.proj, self.norm = nn.Linear(dims, dims), nn.LayerNorm(dims, eps=_NORM_EPS)

    def forward(self, slots: Tensor, inputs: Tensor, valid: Tensor | None = None) -> SlotReading:
        """Read slots (B, N, D) from inputs (B, S, I).

        Args:
            slots: The slots.
            inputs: The inputs.
            valid: (B, S) bool, inputs that belong to slots; None: all.
        """
        key, value = (self._split(part(inputs)) for part in (self.key, self.value))
        read = self._iterate if self.mode == "gru" else self._read
        context, assignment, weights = read(slots, key, value, valid)
        return SlotReading(self.norm(self.proj(context) + slots), assignment, weights)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # B H S d

    def _read(
        self, slots: Tensor, key: Tensor, value: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        scores = self._split(self.query(slots)) @ key.mT * key.shape[-1] ** -0.5
        if self.mode == "plain":
            if self.causal:
                later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
                scores = scores.masked_fill(later.triu(1), float("-inf"))
            if valid is not None:
                scores = scores + key_bias(valid[:, None, None], scores.dtype)
            assignment = weights = scores.softmax(dim=-1)
        else:
            assignment = _where(scores.softmax(dim=2), valid)
            weights = assignment / (assignment.sum(dim=-1, keepdim=True) + 1)
        return (weights @ value).transpose(1, 2).flatten(2), assignment, weights

    def _iterate(
        self, slots: Tensor, key: Tensor, value: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = slots.shape[1]
        key = key * count**-0.5  # official: not by the width of a head
        learning = count // 2 if self.half else count
        for _ in range(self.num_iterations):
            scores = self._split(self.query(self.norm_slots(slots))) @ key.mT
            first, rest = scores[:, :, :learning], scores[:, :, learning:]
            joint = first.flatten(1, 2).softmax(dim=1).unflatten(1, first.shape[1:3])
            assignment = _where(torch.cat([joint, rest.softmax(dim=-1)], dim=2), valid)
            weights = _where(assignment + _EPS, valid)
            weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=_EPS)
            context = (weights @ value).transpose(1, 2).flatten(2)
            new = self.gru(context.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            new = new + self.mlp(self.norm_mlp(new))
            slots = torch.cat([new[:, :learning], slots[:, learning:]], dim=1)
        return slots, assignment, weights


def _where(attention: Tensor, valid: Tensor | None) -> Tensor:
    return attention if valid is None else attention * valid[:, None, None]


class SlotVectorization(nn.Module):
    """Learned queries that compete for the seeds, in place of ``ObjectVectorization``.

    Args:
        seed_dims: Width of the seeds.
        embed_dims: Width of queries and tokens.
        num_tokens: Number of queries.
        mode: ``"gru"`` or ``"morph"`` of :class:`SlotAttention`.
        num_iterations: Readings; those of ``"morph"`` share their weights.
        num_heads: Attention heads.
    """

    def __init__(
        self,
        seed_dims: int,
        embed_dims: int,
        num_tokens: int,
        mode: str,
        num_iterations: int = 1,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_tokens, embed_dims))
        self.norm_seeds = nn.LayerNorm(seed_dims)
        self.readings = 1 if mode == "gru" else num_iterations
        own = num_iterations if mode == "gru" else 1
        self.attention = SlotAttention(embed_dims, seed_dims, num_heads, mode, own)

    def forward(
        self, seeds: Tensor, valid: Tensor | None = None, num_tokens: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read tokens (B, N, E) from seeds; see ``ObjectVectorization``.

        The assignment (B, N, S) sums to one over the tokens at each valid seed.
        """
        slots = self.queries[:num_tokens].expand(len(seeds), -1, -1)
        seeds = self.norm_seeds(seeds)
        for _ in range(self.readings):
            slots, assignment, _ = self.attention(slots, seeds, valid)
        if self.attention.mode == "gru":
            return slots, assignment.sum(dim=1)
        return slots, assignment.mean(dim=1)


class SlotFormer(nn.Module):
    """Slot-MLLM's Q-Former: queries that attend to each other, and as slots to the inputs.

    Each layer has causal self-attention of the queries, cross-attention of slots in each
    ``cross_every``-th, and a feed-forward network, all with norms after the residual.

    Args:
        num_slots: Number of slots.
        dims: Their width.
        input_dims: Width of the inputs.
        depth: Number of layers.
        num_heads: Attention heads.
        mode: See :class:`SlotAttention`.
        num_iterations: See there.
        hidden_dims: Hidden width of the feed-forward networks; None: four times ``dims``.
        cross_every: Layers 0, ``cross_every``, ... see the inputs.

    Reference:
        Chi et al., 2025, arXiv:2505.17726; Li et al., "BLIP-2", 2023, arXiv:2301.12597.
    """

    def __init__(
        self,
        num_slots: int,
        dims: int,
        input_dims: int,
        depth: int,
        num_heads: int,
        mode: str = "gru",
        num_iterations: int = 3,
        hidden_dims: int | None = None,
        cross_every: int = 2,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_slots, dims) * 0.02)
        self.norm = nn.LayerNorm(dims, eps=_NORM_EPS)
        hidden_dims = hidden_dims or 4 * dims
        self.layers = nn.ModuleList()
        for number in range(depth):
            layer = nn.ModuleDict(
                dict(
                    self_attention=SlotAttention(dims, dims, num_heads, "plain", causal=True),
                    fc1=nn.Linear(dims, hidden_dims),
                    fc2=nn.Linear(hidden_dims, dims),
                    norm=nn.LayerNorm(dims, eps=_NORM_EPS),
                )
            )
            if number % cross_every == 0:
                layer["cross_attention"] = SlotAttention(
                    dims, input_dims, num_heads, mode, num_iterations
                )
            self.layers.append(layer)

    def forward(self, inputs: Tensor, valid: Tensor | None = None) -> SlotReading:
        """Read slots from inputs (B, S, I), of which ``valid`` (B, S) belong to slots.

        The attention that is returned is that of the last layer that sees the inputs.
        """
        slots = self.norm(self.queries).expand(len(inputs), -1, -1)
        reading = None
        for layer in self.layers:
            slots = layer["self_attention"](slots, slots).slots
            if "cross_attention" in layer:
                reading = layer["cross_attention"](slots, inputs, valid)
                slots = reading.slots
            slots = layer["norm"](layer["fc2"](F.gelu(layer["fc1"](slots))) + slots)
        return reading._replace(slots=slots)
