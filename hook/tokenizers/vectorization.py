"""Object vectorization module: one token per object, read by cross-attention (paper, section 3.3).

Learned queries read from all seeds (:class:`ObjectVectorization`), or the query of a region reads
from its seeds only (:class:`RegionVectorization`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.tokenizers.perception import key_bias
from hook.tokenizers.positions import Fourier2d


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


class RegionVectorization(nn.Module):
    """One token per region, from the region's seeds, place and shape.

    The query is the mean of the region's seeds, and its cross-attention is restricted to them. The
    token also receives the maximum and the standard deviation of the seeds, and the centroid, the
    extent and the size of the region.

    Args:
        seed_dims: Width of the seeds; the attention head is half as wide.
        embed_dims: Width of the tokens.
        stride: Pixels per seed.

    Reference:
        Cross-attention as in Shao et al. (2024), arXiv:2403.18593, section 3.3; maximum and place
        after Lew et al., "Superpixel tokenization for vision transformers" (SuiT), 2024.
    """

    def __init__(self, seed_dims: int, embed_dims: int, stride: int = 4) -> None:
        super().__init__()
        self.head_dims, self.stride = seed_dims // 2, stride
        self.norm_seeds = nn.LayerNorm(seed_dims)
        self.query = nn.Parameter(torch.randn(self.head_dims) * 0.02)
        self.to_query = nn.Linear(seed_dims, self.head_dims, bias=False)
        self.to_key_value = nn.Linear(seed_dims, 2 * self.head_dims, bias=False)
        read = self.head_dims + 2 * seed_dims
        self.norm_read = nn.LayerNorm(read)
        self.proj = nn.Linear(read, embed_dims)
        self.positions = Fourier2d(count=4)
        self.place = nn.Sequential(
            nn.Linear(self.positions.dims + 3, embed_dims),
            nn.GELU(),
            nn.Linear(embed_dims, embed_dims),
        )
        self.feed_forward = QueryFeedForward(embed_dims)

    def forward(self, seeds: Tensor, token_ids: Tensor, num_tokens: int) -> Tensor:
        """Read tokens from the seeds of regions.

        Args:
            seeds: (B, h, w, D) seeds.
            token_ids: (B, h, w) int64 region of each seed, from 0 to N - 1; -1 for no region.
            num_tokens: Number of tokens N.

        Returns:
            (B, N, E) tokens; that of a region without seeds depends on the weights only.
        """
        b, h, w, d = seeds.shape
        image = torch.arange(b, device=seeds.device)[:, None, None]
        known = (token_ids.flatten() >= 0).nonzero()[:, 0]  # V seeds in regions
        region = (token_ids + image * num_tokens).flatten().index_select(0, known)
        place = self.stride * torch.stack([known // w % h, known % w], dim=-1).to(seeds.dtype)
        x = self.norm_seeds(seeds.reshape(-1, d).index_select(0, known))  # V D
        of = _Regions(region, b * num_tokens)

        mean = of.mean(x)
        key, value = self.to_key_value(x).chunk(2, dim=-1)
        query = of.spread(self.to_query(mean) + self.query)
        read = of.attend((key * query).sum(-1) * self.head_dims**-0.5, value)
        deviation = (of.mean((x - of.spread(mean)).square()) + 1e-6).sqrt()
        tokens = self.proj(self.norm_read(torch.cat([read, of.maximum(x), deviation], dim=-1)))

        centre = of.mean(place)
        extent = of.mean((place - of.spread(centre)).square())
        size = of.size[:, None].to(x.dtype)
        shape = torch.cat([(extent + 1).log() / 4, size.log1p() / 4], dim=-1)
        tokens = tokens + self.place(torch.cat([self.positions(centre), shape], dim=-1))
        tokens = tokens + self.feed_forward(tokens)
        return tokens.reshape(b, num_tokens, -1)


class _Regions:
    """Reductions of V seeds (V, ...) over R regions: (R, ...), zero for a region without seeds."""

    def __init__(self, region: Tensor, count: int) -> None:
        self.region, self.count = region, count
        self.size = torch.bincount(region, minlength=count)
        self.order = region.argsort(stable=True)
        self.starts = self.size.cumsum(0) - self.size

    def mean(self, x: Tensor) -> Tensor:
        size = self.size.clamp(min=1)[:, None].to(x.dtype)
        return self._sum(x) / size

    def spread(self, x: Tensor) -> Tensor:
        """Return the rows of (R, ...) at the seeds."""
        return x.index_select(0, self.region)

    def maximum(self, x: Tensor) -> Tensor:
        # Several times as fast as scatter_reduce and segment_reduce, above all backward.
        return F.embedding_bag(self.order, x, self.starts, mode="max")

    def attend(self, scores: Tensor, values: Tensor) -> Tensor:
        """Average the values (V, D) by a softmax of the scores (V,) within each region."""
        scores = scores[:, None]
        weights = (scores - self.spread(self.maximum(scores.detach()))).exp()
        total = self._sum(weights)
        return self._sum(values * weights) / total.where(total > 0, 1)

    def _sum(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.count, x.shape[1]).index_add(0, self.region, x)
