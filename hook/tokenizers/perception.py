"""Object perception module: attention that groups seeds into objects (paper, section 3.2).

A block is a pre-norm transformer block over the seed map; what differs between blocks is how
seeds meet: in windows or all with all (:class:`SeedAttention`), or the near ones in windows and
the far ones through a few latents, at once (:class:`NearFarAttention`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hook.tokenizers.positions import Rotary2d
from hook.tokenizers.stem import gelu

# Of one image of 256 px; see rows_at_once.
_SEEDS_AT_ONCE = 64 * 64


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


def rows_at_once(x: Tensor, window: tuple[int, int] | None = (1, 1)) -> int | None:
    """Choose how many rows of a seed map go through what treats them alike; None for all.

    On a CPU without gradients a few, so that what comes in between stays in the cache, and in
    memory that the allocator keeps: it hands large blocks back, and every new one costs a fault
    per page.

    Args:
        x: (B, h, w, D) seeds.
        window: Height and width of the windows that must stay whole; None: all of it must.
    """
    alone = x.device.type == "cpu" and not torch.is_grad_enabled() and window is not None
    if not alone or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return None
    b, h, w, _ = x.shape
    rows = max(_SEEDS_AT_ONCE // (b * w) // window[0], 1) * window[0]
    return rows if rows < h else None


def attend(
    qkv: Tensor, num_heads: int, angles: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Attend among the members of a sequence.

    Args:
        qkv: (B, N, 3 * D) queries, keys and values.
        num_heads: Number of heads; must divide D.
        angles: Rotary angles, broadcast against (B, heads, N, D / heads / 2).
        bias: (B, N) added to the scores of the keys.

    Returns:
        (B, N, D).
    """
    b, n, _ = qkv.shape
    qkv = qkv.reshape(b, n, 3, num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # B heads N D/heads
    if angles is not None:
        query, key = Rotary2d.rotate(query, angles), Rotary2d.rotate(key, angles)
        # The turned ones are copies: without one of the values the backward pass keeps all three.
        value = value.contiguous()
    if bias is not None:
        bias = bias[:, None, None, :].expand(-1, -1, n, -1)
    return merge_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=bias))


class _GeluLinear(torch.autograd.Function):
    """A linear layer behind a GELU, whose result the backward pass computes again.

    The hidden layer is the widest map of a block; so it is kept once, not twice.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        # Under autocast the features are narrower than the weights.
        grad = grad.to(x.dtype)
        flat = grad.flatten(0, -2)
        grad_weight = (flat.T @ F.gelu(x).flatten(0, -2)).to(weight.dtype)
        grad_bias = flat.sum(0).to(weight.dtype) if ctx.has_bias else None
        grad_x = torch.ops.aten.gelu_backward(grad @ weight.to(x.dtype), x)
        return grad_x, grad_weight, grad_bias


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
        x = self.fc1(x)
        if self.training and torch.is_grad_enabled():
            return _GeluLinear.apply(x, self.fc2.weight, self.fc2.bias)
        return self.fc2(gelu(x))


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


class WindowMixing(nn.Module):
    """Attention among the seeds of a window, or of all with all, given queries, keys and values.

    Args:
        num_heads: Number of attention heads.
        window: Height and width of the attention windows in seeds; None attends globally.
        rotary: Positions relative within a window, instead of none; needs ``head_dims``.
        pads_are_keys: Let the zeros that fill up windows at the border take part as keys, as in
            the official implementation.
        stride: Pixels per seed, the unit of the rotary positions.
        head_dims: Width of a head.
    """

    def __init__(
        self,
        num_heads: int,
        window: tuple[int, int] | None,
        rotary: bool = False,
        pads_are_keys: bool = False,
        stride: int = 4,
        head_dims: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.pads_are_keys = pads_are_keys
        self.stride = stride
        self.rotary = Rotary2d(head_dims) if rotary else None

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
        self, qkv: Tensor, valid: Tensor | None = None, scale: Tensor | float = 1.0
    ) -> Tensor:
        """Map queries, keys and values (B, h, w, 3 * D) to (B, h, w, D).

        Args:
            qkv: Queries, keys and values of the seeds.
            valid: (B, h, w) bool; the others are no keys. None: all are.
            scale: Ground size of a pixel over that of training, one number or (B,).
        """
        b, h, w, _ = qkv.shape
        window = (h, w) if self.window is None else self.window
        if valid is None and not self.pads_are_keys and (h % window[0] or w % window[1]):
            valid = torch.ones(1, h, w, dtype=torch.bool, device=qkv.device).expand(b, -1, -1)
        windows = window_partition(qkv, window)
        bias = None
        if valid is not None:
            keys = window_partition(valid[..., None].to(qkv.dtype), window)[..., 0]
            bias = key_bias(keys > 0, qkv.dtype)
        angles = self._angles(window, scale, qkv)
        if angles is not None:
            if len(angles) > 1:  # every window of an image has that image's
                angles = angles.repeat_interleave(len(windows) // b, dim=0)
            angles = angles[:, None]
        return window_merge(attend(windows, self.num_heads, angles, bias), window, (h, w))


class LatentMixing(nn.Module):
    """Attention of all seeds with all through a few latents, at a cost linear in the seeds.

    Learned latents read from the keys and values of all seeds, then the query of every seed reads
    from the latents.

    Args:
        dims: Width of queries, keys and values.
        num_heads: Number of attention heads.
        num_latents: Number of latents.

    Reference:
        The induced attention of Lee et al., "Set Transformer", ICML 2019.
    """

    def __init__(self, dims: int, num_heads: int, num_latents: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.latents = nn.Parameter(torch.randn(num_latents, dims))
        self.norm = nn.LayerNorm(dims)
        self.key_value = nn.Linear(dims, 2 * dims, bias=False)

    def forward(self, qkv: Tensor, valid: Tensor | None = None) -> Tensor:
        """Map queries, keys and values (B, h, w, 3 * D) to (B, h, w, D).

        Args:
            qkv: Queries, keys and values of the seeds.
            valid: (B, h, w) bool; the latents do not read the others. None: they read all.
        """
        b, h, w, _ = qkv.shape
        query, key, value = (
            split_heads(part, self.num_heads) for part in qkv.reshape(b, h * w, -1).chunk(3, dim=-1)
        )
        latents = split_heads(self.latents[None], self.num_heads).expand(b, -1, -1, -1)
        bias = None
        if valid is not None:
            bias = key_bias(valid.reshape(b, 1, 1, h * w), qkv.dtype)
            bias = bias.expand(-1, -1, latents.shape[2], -1)
        read = F.scaled_dot_product_attention(latents, key, value, attn_mask=bias)
        key, value = (
            split_heads(part, self.num_heads)
            for part in self.key_value(self.norm(merge_heads(read))).chunk(2, dim=-1)
        )
        x = F.scaled_dot_product_attention(query, key, value)
        return merge_heads(x).reshape(b, h, w, -1)


class SeedAttention(nn.Module):
    """Self-attention over the seed map, in windows or all with all.

    Args:
        dims: Width of the seeds.
        num_heads: Number of attention heads.
        window: Height and width of the attention windows in seeds; None attends globally.
        pads_are_keys: See :class:`WindowMixing`.

    Raises:
        ValueError: The heads do not divide the width.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        window: tuple[int, int] | None = None,
        pads_are_keys: bool = False,
    ) -> None:
        super().__init__()
        check_heads(dims, num_heads)
        self.qkv = nn.Linear(dims, 3 * dims)
        self.mixing = WindowMixing(num_heads, window, pads_are_keys=pads_are_keys)
        self.proj = nn.Linear(dims, dims)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, scale: Tensor | float = 1.0
    ) -> Tensor:
        """Map seeds (B, h, w, D) to (B, h, w, D); see :class:`WindowMixing`."""
        h, w = x.shape[1:3]
        if self.mixing.pads_are_keys and self.mixing.window is not None:
            # Before the linear layer: what a zero becomes there is the key it has.
            wh, ww = self.mixing.window
            x = F.pad(x, (0, 0, 0, -w % ww, 0, -h % wh))
        return self.proj(self.mixing(self.qkv(x), valid, scale)[:, :h, :w])


class NearFarAttention(nn.Module):
    """Near seeds meet in windows, with rotary positions, far ones through latents, at once.

    Some heads are for the near seeds, the others for the far ones; after a LayerNorm, which has a
    bias, the linear layers need none.

    Args:
        dims: Width of the seeds.
        near_heads: Number of heads for the seeds of a window.
        far_heads: Number of heads for the latents.
        head_dims: Width of a head; a multiple of 4.
        window: Height and width of the windows in seeds; None: near are all.
        num_latents: Number of latents.
        stride: Pixels per seed.
    """

    def __init__(
        self,
        dims: int,
        near_heads: int,
        far_heads: int,
        head_dims: int,
        window: tuple[int, int] | None,
        num_latents: int,
        stride: int = 4,
    ) -> None:
        super().__init__()
        near, far = near_heads * head_dims, far_heads * head_dims
        # Two layers each, not one for both: what one half needs in the backward pass would keep
        # the whole result alive.
        self.near_qkv = nn.Linear(dims, 3 * near, bias=False)
        self.near = WindowMixing(
            near_heads, window, rotary=True, stride=stride, head_dims=head_dims
        )
        self.near_proj = nn.Linear(near, dims, bias=False)
        self.far_qkv = nn.Linear(dims, 3 * far, bias=False)
        self.far = LatentMixing(far, far_heads, num_latents)
        self.far_proj = nn.Linear(far, dims, bias=False)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, scale: Tensor | float = 1.0
    ) -> Tensor:
        """Map seeds (B, h, w, D) to (B, h, w, D); see :class:`WindowMixing`."""
        far = self.far_proj(self.far(self.far_qkv(x), valid))
        rows = rows_at_once(x, self.near.window)
        if rows is None:
            return far + self.near_proj(self.near(self.near_qkv(x), valid, scale))
        valid = [None] * -(-x.shape[1] // rows) if valid is None else valid.split(rows, dim=1)
        for total, part, known in zip(far.split(rows, 1), x.split(rows, 1), valid, strict=True):
            total += self.near_proj(self.near(self.near_qkv(part), known, scale))
        return far


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
        attn: SeedAttention | NearFarAttention,
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
        rows = rows_at_once(x)
        if rows is None:
            return x + self.mlp(self.norm2(x))
        for part in x.split(rows, dim=1):  # of a map that nobody else has
            part += self.mlp(self.norm2(part))
        return x


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
