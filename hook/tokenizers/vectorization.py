"""Object vectorization module: learnable queries read one token per object (paper, section 3.3)."""

import torch
from torch import Tensor, nn

from hook.tokenizers.perception import key_bias


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

    With ``assign='seed'`` (the paper's) the softmax runs over the seeds for each token. With
    ``assign='token'`` it runs over the tokens for each seed, and a token is the mean of the values
    weighted by its assignment.

    Args:
        seed_dims: Width of the seeds; the attention head is half as wide.
        embed_dims: Width of queries and tokens.
        num_tokens: Number of queries.
        assign: ``'seed'`` or ``'token'``.
        num_iterations: Number of readings; from the second on, the tokens are the queries.

    Reference:
        Shao et al. (2024), arXiv:2403.18593, section 3.3; for ``assign='token'`` the attention
        of Locatello et al., "Object-centric learning with slot attention", NeurIPS 2020.
    """

    def __init__(
        self,
        seed_dims: int,
        embed_dims: int,
        num_tokens: int,
        assign: str = "seed",
        num_iterations: int = 1,
    ) -> None:
        super().__init__()
        head_dims = seed_dims // 2
        self.scale = head_dims**-0.5
        self.assign = assign
        self.num_iterations = num_iterations
        self.queries = nn.Parameter(torch.randn(num_tokens, embed_dims))
        self.norm_seeds = nn.LayerNorm(seed_dims)
        self.norm_queries = nn.LayerNorm(embed_dims)
        self.to_query = nn.Linear(embed_dims, head_dims, bias=False)
        self.to_key_value = nn.Linear(seed_dims, 2 * head_dims, bias=False)
        self.proj = nn.Linear(head_dims, embed_dims, bias=False)
        self.feed_forward = QueryFeedForward(embed_dims)

    def scores(self, seeds: Tensor) -> Tensor:
        """Map seeds (B, S, D) to scores (B, N, S) of the first reading, before the softmax."""
        key, _ = self.to_key_value(self.norm_seeds(seeds)).chunk(2, dim=-1)
        return self.to_query(self.norm_queries(self.queries)) * self.scale @ key.transpose(1, 2)

    def forward(
        self, seeds: Tensor, valid: Tensor | None = None, num_tokens: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read tokens from seeds.

        Args:
            seeds: (B, S, D) seeds.
            valid: (B, S) bool; invalid seeds belong to no token. None: all are valid.
            num_tokens: Use the first N queries; None uses all.

        Returns:
            Tokens (B, N, E) and assignment (B, N, S), which sums to one over the seeds
            (``'seed'``) or over the tokens (``'token'``), and is zero where not valid.
        """
        tokens = self.queries[:num_tokens]  # N E
        key, value = self.to_key_value(self.norm_seeds(seeds)).chunk(2, dim=-1)  # B S D/2
        for _ in range(self.num_iterations):
            query = self.to_query(self.norm_queries(tokens))
            scores = query * self.scale @ key.transpose(1, 2)  # B N S
            if self.assign == "token":
                assignment, weights = choose_tokens(scores, valid)
            else:
                assignment = weights = choose_seeds(scores, valid)
            tokens = self.proj(weights @ value) + tokens
            tokens = tokens + self.feed_forward(tokens)
        return tokens, assignment


def choose_seeds(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """Apply a softmax over the seeds.

    Args:
        scores: (B, N, S) scores of tokens and seeds.
        valid: (B, S) bool; invalid seeds get no weight. None: all are valid.

    Returns:
        (B, N, S) weights that sum to one over the seeds, or to zero where no seed is valid.
    """
    if valid is None:
        return scores.softmax(dim=-1)
    weights = (scores + key_bias(valid[:, None], scores.dtype)).softmax(dim=-1)
    return weights * valid[:, None]


def choose_tokens(scores: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Apply a softmax over the tokens; arguments as in :func:`choose_seeds`.

    Returns:
        The assignment (B, N, S), which sums to one over the tokens at each valid seed, and the
        same normalised to sum to one over the seeds for each token, the weights of its mean; near
        zero for a token without seeds.
    """
    assignment = scores.softmax(dim=1)
    if valid is not None:
        assignment = assignment * valid[:, None]
    total = assignment.sum(dim=-1, keepdim=True)
    return assignment, assignment / (total + torch.finfo(scores.dtype).eps)
