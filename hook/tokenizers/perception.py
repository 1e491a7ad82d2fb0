"""Object perception module: self-attention that groups seeds into objects (paper, section 3.2)."""

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention over a sequence.

    Args:
        dims: Width of the features.
        num_heads: Number of heads; must divide ``dims``.
    """

    def __init__(self, dims: int, num_heads: int) -> None:
        super().__init__()
        if dims % num_heads:
            raise ValueError(
                f"seed_dims ({dims}) must be divisible by the number of perception heads "
                f"({num_heads})"
            )
        self.num_heads = num_heads
        self.qkv = nn.Linear(dims, 3 * dims)
        self.proj = nn.Linear(dims, dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, d // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # B heads N D/heads
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).reshape(b, n, d))


class FeedForward(nn.Module):
    """Two linear layers around a GELU.

    Args:
        dims: Width of the features.
        ratio: Width of the hidden layer as a multiple of ``dims``.
    """

    def __init__(self, dims: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dims, int(dims * ratio))
        self.act = nn.GELU()
        self.fc2 = nn.Linear(int(dims * ratio), dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.fc2(self.act(self.fc1(x)))


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


class PerceptionBlock(nn.Module):
    """Pre-norm transformer block over the seed map.

    The padding of windows that do not divide the map is added after the norm and takes part as
    keys, as in the official implementation.

    Args:
        dims: Width of the seeds.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden width of the feed-forward half.
        window: Height and width of the attention windows in seeds; None attends globally.
    """

    def __init__(
        self, dims: int, num_heads: int, mlp_ratio: float, window: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dims)
        self.attn = SelfAttention(dims, num_heads)
        self.norm2 = nn.LayerNorm(dims)
        self.mlp = FeedForward(dims, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Map seeds (B, h, w, D) to seeds (B, h, w, D)."""
        b, h, w, d = x.shape
        y = self.norm1(x)
        if self.window is None:
            y = self.attn(y.reshape(b, h * w, d)).reshape(b, h, w, d)
        else:
            y = self.attn(window_partition(y, self.window))
            y = window_merge(y, self.window, (h, w))
        x = x + y
        return x + self.mlp(self.norm2(x))


class ObjectPerception(nn.Module):
    """One windowed block, then one global block.

    Args:
        dims: Width of the seeds.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden width of the feed-forward halves.
        window: Height and width of the windows of the first block in seeds; a zero means global.
    """

    def __init__(
        self, dims: int, num_heads: int, mlp_ratio: float, window: tuple[int, int]
    ) -> None:
        super().__init__()
        local = window if min(window) > 0 else None
        self.blocks = nn.Sequential(
            PerceptionBlock(dims, num_heads, mlp_ratio, local),
            PerceptionBlock(dims, num_heads, mlp_ratio, None),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map seeds (B, h, w, D) to seeds (B, h, w, D)."""
        return self.blocks(x)
