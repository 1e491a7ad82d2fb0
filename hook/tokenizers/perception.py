"""Object perception module: attention that groups seeds into objects (paper, section 3.2).

A block is a pre-norm transformer block over the seed map; what differs between blocks is how
seeds meet: in windows or all with all (:class:`SeedAttention`), or the near ones in windows and
the far ones through a few latents, at once (:class:`NearFarAttention`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.tokenizers.positions import Rotary2d
from hook.tokenizers.stem import gelu


def key_bias(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn validity into what attention adds to the scores of its keys.

    Args:
        valid: bool, any shape; False where a key must get no weight.
        dtype: Type of the scores.

    Returns:
        Zero where valid, elsewhere a number so low that its softmax is exactly zero. It is finite,
        so a row without any valid key has no NaN.
    """
    low = torch.finfo(dtype).min / 2
    return torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill(~valid, low)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Map (B, N, D) to (B, heads, N, D / heads)."""
    b, n, d = x.shape
    return x.reshape(b, n, num_heads, d // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Map (B, heads, N, d) to (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def check_heads(dims: int, num_heads: int) -> None:
    """Refuse heads that do not divide the width.

    Raises:
        ValueError: They do not.
    """
    if dims % num_heads:
        raise ValueError(
            f"seed_dims ({dims}) must be divisible by the number of perception heads ({num_heads})"
        )


class SelfAttention(nn.Module):
    """Multi-head self-attention over a sequence.

    Args:
        dims: Width of the features.
        num_heads: Number of heads; must divide ``inner_dims``.
        inner_dims: Width of queries, keys and values over all heads; None for ``dims``.
        bias: Give the linear layers biases. After a LayerNorm, which has one, they add nothing
            but a pass over the map.

    Raises:
        ValueError: The heads do not divide the width.
    """

    def __init__(
        self, dims: int, num_heads: int, inner_dims: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        inner_dims = inner_dims or dims
        check_heads(inner_dims, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dims, 3 * inner_dims, bias=bias)
        self.proj = nn.Linear(inner_dims, dims, bias=bias)

    def attend(self, x: Tensor, angles: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D).

        Args:
            x: (B, N, D) features.
            angles: Rotary angles, broadcast against (B, heads, N, D / heads / 2).
            bias: (B, N) added to the scores of the keys.
        """
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # B heads N D/heads
        if angles is not None:
            query, key = Rotary2d.rotate(query, angles), Rotary2d.rotate(key, angles)
        if bias is not None:
            bias = bias[:, None, None, :].expand(-1, -1, n, -1)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(merge_heads(x))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.attend(x)


class FeedForward(nn.Module):
    """Two linear layers around a GELU.

    Args:
        dims: Width of the features.
        ratio: Width of the hidden layer as a multiple of ``dims``.
        bias: Give the linear layers biases.
    """

    def __init__(self, dims: int, ratio: float, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dims, int(dims * ratio), bias=bias)
        self.fc2 = nn.Linear(int(dims * ratio), dims, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.fc2(gelu(self.fc1(x)))


def window_partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a map into non-overlapping windows, zero-padding it at the bottom and the right.

    Args:
        x: (B, H, W, D) map.
        window: Height and width of a window in cells.

    Returns:
        (B * windows, window height * window width, D) windows in row-major order.
    """
    b, h, w, d = x.shape
    wh, ww = window
    x = F.pad(x, (0, 0, 0, -w % ww, 0, -h % wh))
    rows, columns = x.shape[1] // wh, x.shape[2] // ww
    x = x.reshape(b, rows, wh, columns, ww, d).transpose(2, 3)
    return x.reshape(b * rows * columns, wh * ww, d)


def window_merge(windows: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Undo :func:`window_partition` and drop its padding.

    Args:
        windows: (B * windows, window height * window width, D).
        window: Height and width of a window in cells.
        size: Height and width of the map before padding.

    Returns:
        (B, H, W, D) map.
    """
    (h, w), (wh, ww) = size, window
    rows, columns = -(-h // wh), -(-w // ww)
    x = windows.reshape(-1, rows, columns, wh, ww, windows.shape[-1]).transpose(2, 3)
    return x.reshape(x.shape[0], rows * wh, columns * ww, -1)[:, :h, :w]


class SeedAttention(SelfAttention):
    """Self-attention over the seed map, in windows or all with all.

    Args:
        dims: Width of the seeds.
        num_heads: Number of attention heads.
        window: Height and width of the attention windows in seeds; None attends globally.
        rotary: Positions relative within a window, instead of none.
        pads_are_keys: Let the zeros that fill up windows at the border take part as keys, as in
            the official implementation.
        stride: Pixels per seed, the unit of the rotary positions.
        inner_dims, bias: See :class:`SelfAttention`.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        window: tuple[int, int] | None,
        rotary: bool = False,
        pads_are_keys: bool = False,
        stride: int = 4,
        inner_dims: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(dims, num_heads, inner_dims, bias)
        self.window = window
        self.pads_are_keys = pads_are_keys
        self.stride = stride
        self.rotary = Rotary2d((inner_dims or dims) // num_heads) if rotary else None

    def _angles(self, window: tuple[int, int], scale: Tensor | float, x: Tensor) -> Tensor | None:
        """Give angles (windows or 1, 1, n, head_dims / 2) for windows of a batch."""
        if self.rotary is None:
            return None
        rows = torch.arange(window[0], device=x.device, dtype=torch.float32) * self.stride
        columns = torch.arange(window[1], device=x.device, dtype=torch.float32) * self.stride
        rows = rows[:, None].expand(window).flatten()
        columns = columns[None, :].expand(window).flatten()
        angles = self.rotary.angles(rows, columns)[None]  # 1 n d/2
        if isinstance(scale, Tensor):
            angles = angles * scale[:, None, None]
        elif scale != 1:
            angles = angles * scale
        return angles

    def forward(
        self, x: Tensor, valid: Tensor | None = None, scale: Tensor | float = 1.0
    ) -> Tensor:
        """Map seeds (B, h, w, D) to (B, h, w, D).

        Args:
            x: Normalised seeds.
            valid: (B, h, w) bool; the others are no keys. None: all are.
            scale: Ground size of a pixel over that of training, one number or (B,).
        """
        b, h, w, _ = x.shape
        window = (h, w) if self.window is None else self.window
        if valid is None and not self.pads_are_keys and (h % window[0] or w % window[1]):
            valid = torch.ones(1, h, w, dtype=torch.bool, device=x.device).expand(b, -1, -1)
        windows = window_partition(x, window)
        bias = None
        if valid is not None:
            keys = window_partition(valid[..., None].to(x.dtype), window)[..., 0]
            bias = key_bias(keys > 0, x.dtype)
        angles = self._angles(window, scale, x)
        if angles is not None:
            if len(angles) > 1:  # every window of an image has that image's
                angles = angles.repeat_interleave(len(windows) // b, dim=0)
            angles = angles[:, None]
        return window_merge(self.attend(windows, angles, bias), window, (h, w))


class LatentAttention(nn.Module):
    """Attention of all seeds with all through a few latents, at a cost linear in the seeds.

    Learned latents read from all seeds, then every seed reads from the latents.

    Args:
        dims: Width of the seeds.
        num_heads: Number of attention heads.
        num_latents: Number of latents.
        bias: Give the linear layers biases.

    Reference:
        The induced attention of Lee et al., "Set Transformer", ICML 2019.
    """

    def __init__(self, dims: int, num_heads: int, num_latents: int, bias: bool = True) -> None:
        super().__init__()
        check_heads(dims, num_heads)
        self.num_heads = num_heads
        self.latents = nn.Parameter(torch.randn(num_latents, dims))
        # A seed's query to the latents, and its key and value for them.
        self.qkv = nn.Linear(dims, 3 * dims, bias=bias)
        self.norm = nn.LayerNorm(dims)
        self.key_value = nn.Linear(dims, 2 * dims, bias=bias)  # of the latents
        self.proj = nn.Linear(dims, dims, bias=bias)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, scale: Tensor | float = 1.0
    ) -> Tensor:
        """Map seeds (B, h, w, D) to (B, h, w, D).

        Args:
            x: Normalised seeds.
            valid: (B, h, w) bool; the latents do not read the others. None: they read all.
            scale: Unused; latents have no place.
        """
        b, h, w, d = x.shape
        query, key, value = (
            split_heads(part, self.num_heads)
            for part in self.qkv(x.reshape(b, h * w, d)).chunk(3, dim=-1)
        )
        latents = split_heads(self.latents[None], self.num_heads).expand(b, -1, -1, -1)
        bias = None
        if valid is not None:
            bias = key_bias(valid.reshape(b, 1, 1, h * w), x.dtype)
            bias = bias.expand(-1, -1, latents.shape[2], -1)
        read = F.scaled_dot_product_attention(latents, key, value, attn_mask=bias)
        key, value = (
            split_heads(part, self.num_heads)
            for part in self.key_value(self.norm(merge_heads(read))).chunk(2, dim=-1)
        )
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(merge_heads(x)).reshape(b, h, w, d)


class NearFarAttention(nn.Module):
    """Near seeds meet in windows, far ones through latents, and the two are added.

    Args:
        near: Attention in windows.
        far: Attention through latents.
    """

    def __init__(self, near: SeedAttention, far: LatentAttention) -> None:
        super().__init__()
        self.near = near
        self.far = far

    def forward(
        self, x: Tensor, valid: Tensor | None = None, scale: Tensor | float = 1.0
    ) -> Tensor:
        """Map seeds (B, h, w, D) to (B, h, w, D); see :class:`SeedAttention`."""
        return self.near(x, valid, scale) + self.far(x, valid, scale)


class PerceptionBlock(nn.Module):
    """Pre-norm transformer block over the seed map.

    Args:
        dims: Width of the seeds.
        attn: How the seeds meet.
        mlp_ratio: Hidden width of the feed-forward half.
        bias: Give its linear layers biases.
    """

    def __init__(
        self,
        dims: int,
        attn: SeedAttention | LatentAttention | NearFarAttention,
        mlp_ratio: float,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dims)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dims)
        self.mlp = FeedForward(dims, mlp_ratio, bias)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, scale: Tensor | float = 1.0
    ) -> Tensor:
        """Map seeds (B, h, w, D) to seeds (B, h, w, D); see :class:`SeedAttention`."""
        x = x + self.attn(self.norm1(x), valid, scale)
        return x + self.mlp(self.norm2(x))


class ObjectPerception(nn.Module):
    """Perception blocks, one after the other.

    Args:
        blocks: The blocks: the paper has one in windows, then one of all with all.
    """

    def __init__(self, *blocks: PerceptionBlock) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, scale: Tensor | float = 1.0
    ) -> Tensor:
        """Map seeds (B, h, w, D) to seeds (B, h, w, D); see :class:`SeedAttention`."""
        for block in self.blocks:
            x = block(x, valid, scale)
        return x
