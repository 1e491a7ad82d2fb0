"""Object vectorization module: learnable queries read one token per object (paper, section 3.3)."""

import torch
from torch import Tensor, nn


class QueryFeedForward(nn.Module):
    """LayerNorm, then two bias-free linear layers around a GELU.

    Args:
        dims: Width of the tokens.
        ratio: Width of the hidden layer as a multiple of ``dims``.
    """

    def __init__(self, dims: int, ratio: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dims)
        self.fc1 = nn.Linear(dims, dims * ratio, bias=False)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(dims * ratio, dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.fc2(self.act(self.fc1(self.norm(x))))


class ObjectVectorization(nn.Module):
    """Single-head cross-attention of N learnable queries to the seeds.

    The softmax runs over the seeds: a row says where a token looks, not whose a seed is.

    Args:
        seed_dims: Width of the seeds; the attention head is half as wide.
        embed_dims: Width of queries and tokens.
        num_tokens: Number of queries N.
    """

    def __init__(self, seed_dims: int, embed_dims: int, num_tokens: int) -> None:
        super().__init__()
        head_dims = seed_dims // 2
        self.scale = head_dims**-0.5
        self.queries = nn.Parameter(torch.randn(num_tokens, embed_dims))
        self.norm_seeds = nn.LayerNorm(seed_dims)
        self.norm_queries = nn.LayerNorm(embed_dims)
        self.to_query = nn.Linear(embed_dims, head_dims, bias=False)
        self.to_key_value = nn.Linear(seed_dims, 2 * head_dims, bias=False)
        self.proj = nn.Linear(head_dims, embed_dims, bias=False)
        self.feed_forward = QueryFeedForward(embed_dims)

    def forward(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Read tokens from seeds.

        Args:
            seeds: (B, S, D) seeds.

        Returns:
            Tokens (B, N, E) and attention (B, N, S), which sums to one over the seeds.
        """
        query = self.to_query(self.norm_queries(self.queries))  # N D/2
        key, value = self.to_key_value(self.norm_seeds(seeds)).chunk(2, dim=-1)  # B S D/2
        attention = (query * self.scale @ key.transpose(1, 2)).softmax(dim=-1)  # B N S
        tokens = self.proj(attention @ value) + self.queries
        return tokens + self.feed_forward(tokens), attention
