"""Object perception module: attention that groups seeds into objects (paper, section 3.2).

Blocks are pre-norm transformer blocks over the seed map. They differ in their attention: in windows
or global (:class:`SeedAttention`), or local windows and a few global latents in parallel
(:class:`NearFarAttention`).
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from hook.tokenizers.positions import Rotary2d
from hook.tokenizers.stem import gelu

_SEEDS_AT_ONCE = 64 * 64  # seeds of one 256 px image; see rows_at_once


def key_bias(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a bool mask of keys (True: valid) to an additive attention bias.

    The bias is zero where valid, and elsewhere so low that the softmax is exactly zero. It is
    finite, so that a row without any valid key has no NaN.
    """
    low = torch.finfo(dtype).min / 2
    return torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill(~valid, low)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Map (B, N, D) to (B, heads, N, D / heads)."""
    b, n, d = x.shape
    return x.reshape(b, n, num_heads, d // num_heads).transpose(1, 2)


def dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **options: Any
) -> Tensor:
    """Call :func:`torch.nn.functional.scaled_dot_product_attention`, faster in bfloat16 on a CPU.

    There PyTorch's backward takes several times as long in bfloat16 as in single precision, in
    which a pass with gradients is computed therefore.

    Args:
        query: (B, heads, N, d).
        key: (B, heads, M, d).
        value: (B, heads, M, d).
        mask: Added to the scores, broadcast against (B, heads, N, M); None for none.
        **options: Of PyTorch's function.
    """
    function = partial(F.scaled_dot_product_attention, **options)
    low = torch.is_autocast_enabled("cpu") or query.dtype is torch.bfloat16
    if query.device.type != "cpu" or not low or not torch.is_grad_enabled():
        return function(query, key, value, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        parts = (None if part is None else part.float() for part in (query, key, value, mask))
        return function(*parts).to(value.dtype)


def merge_heads(x: Tensor) -> Tensor:
    """Map (B, heads, N, d) to (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def check_heads(dims: int, num_heads: int) -> None:
    """Raise ValueError if the number of heads does not divide the width."""
    if dims % num_heads:
        raise ValueError(
            f"seed_dims ({dims}) must be divisible by the number of perception heads ({num_heads})"
        )


def rows_at_once(x: Tensor, window: tuple[int, int] | None = (1, 1)) -> int | None:
    """Return how many rows of a seed map (B, h, w, D) to process at a time; None for all.

    On a CPU without gradients, chunks keep intermediate results in the cache and in memory that
    the allocator reuses: large blocks are returned to the system, and each new one page-faults.

    Args:
        x: (B, h, w, D) seeds.
        window: Height and width of windows that must not be split; None: the map must not be.
    """
    chunked = x.device.type == "cpu" and not torch.is_grad_enabled() and window is not None
    if not chunked or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return None
    b, h, w, _ = x.shape
    rows = max(_SEEDS_AT_ONCE // (b * w) // window[0], 1) * window[0]
    return rows if rows < h else None


def attend(
    qkv: Tensor, num_heads: int, angles: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Compute multi-head self-attention within each sequence.

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
        # Rotation copies query and key; without a copy of value, backward keeps the whole qkv.
        value = value.contiguous()
    if bias is not None:
        bias = bias[:, None, None, :].expand(-1, -1, n, -1)
    return merge_heads(dot_product_attention(query, key, value, bias))


class _GeluLinear(torch.autograd.Function):
    """GELU and linear layer; backward recomputes the GELU, so the hidden layer is stored once."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        # Under autocast the features have a lower precision than the weights.
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
        bias: Whether the linear layers have biases.
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
    """Partition a map into non-overlapping windows, zero-padded at the bottom and the right.

    Args:
        x: (B, H, W, D) map.
        window: Height and width of a window in cells.

    Returns:
        (B * windows, window height * window width, D) windows in row-major order.
    """
    b, h, w, d = x.shape
    wh, ww = window
    if h % wh or w % ww:  # padding by nothing would copy the map
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
    """Windowed or global attention over the seed map, given queries, keys and values.

    Args:
        num_heads: Number of attention heads.
        window: Height and width of the attention windows in seeds; None attends globally.
        rotary: Use rotary positions within a window; needs ``head_dims``.
        pads_are_keys: Use the zero padding of border windows as keys, as in the official
            implementation.
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
        """Return rotary angles (B or 1, n, head_dims / 2) of a window; None without rotary."""
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

    def partition(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Cut a seed map into windows, before the linear layer, whose output is wider.

        Args:
            x: (B, h, w, D) seeds.
            valid: (B, h, w) bool, None: all are valid.

        Returns:
            (B * windows, n, D) seeds, and the keys among them (B * windows, n) bool, None for all.
        """
        b, h, w, _ = x.shape
        window = self.window or (h, w)
        if valid is None and not self.pads_are_keys and (h % window[0] or w % window[1]):
            valid = torch.ones(1, h, w, dtype=torch.bool, device=x.device).expand(b, -1, -1)
        windows = window_partition(x, window)
        if valid is not None:
            valid = window_partition(valid[..., None].to(x.dtype), window)[..., 0] > 0
        return windows, valid

    def forward(
        self,
        qkv: Tensor,
        size: tuple[int, int],
        valid: Tensor | None = None,
        scale: Tensor | float = 1.0,
    ) -> Tensor:
        """Map queries, keys and values (B * windows, n, 3 * D) to (B * windows, n, D).

        Args:
            qkv: Queries, keys and values of the seeds of each window.
            size: Height and width of the seed map.
            valid: (B * windows, n) bool; invalid seeds are not keys. None: all are valid.
            scale: Ground size of a pixel relative to training, one number or (B,).
        """
        bias = None if valid is None else key_bias(valid, qkv.dtype)
        angles = self._angles(self.window or size, scale, qkv)
        if angles is not None:
            if len(angles) > 1:  # one scale per image, for all its windows
                angles = angles.repeat_interleave(len(qkv) // len(angles), dim=0)
            angles = angles[:, None]
        return attend(qkv, self.num_heads, angles, bias)

    def merge(self, windows: Tensor, size: tuple[int, int]) -> Tensor:
        """Join windows (B * windows, n, D) to a map (B, h, w, D)."""
        return window_merge(windows, self.window or size, size)


class LatentMixing(nn.Module):
    """Global attention through a few learned latents, linear in the number of seeds.

    The latents attend to the keys and values of all seeds, then each seed attends to the latents.

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
        """Map queries, keys and values (B, n, 3 * D) of the seeds, in any order, to (B, n, D).

        Args:
            qkv: Queries, keys and values of the seeds.
            valid: (B, n) bool; the latents ignore invalid seeds. None: all are valid.
        """
        query, key, value = (split_heads(part, self.num_heads) for part in qkv.chunk(3, dim=-1))
        latents = split_heads(self.latents[None], self.num_heads).expand(qkv.shape[0], -1, -1, -1)
        bias = None
        if valid is not None:
            bias = key_bias(valid[:, None, None], qkv.dtype).expand(-1, -1, latents.shape[2], -1)
        read = dot_product_attention(latents, key, value, bias)
        key, value = (
            split_heads(part, self.num_heads)
            for part in self.key_value(self.norm(merge_heads(read))).chunk(2, dim=-1)
        )
        return merge_heads(dot_product_attention(query, key, value))


class SeedAttention(nn.Module):
    """Self-attention over the seed map, windowed or global.

    Args:
        dims: Width of the seeds, divisible by ``num_heads``.
        num_heads: Number of attention heads.
        window: See :class:`WindowMixing`, like ``pads_are_keys``.
        pads_are_keys: Use the zero padding of border windows as keys.
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
        size = x.shape[1:3]
        windows, keys = self.mixing.partition(x, valid)
        return self.mixing.merge(self.proj(self.mixing(self.qkv(windows), size, keys, scale)), size)


class NearFarAttention(nn.Module):
    """Windowed attention with rotary positions and latent attention in parallel heads.

    The linear layers need no bias after a LayerNorm, which has one.

    Args:
        dims: Width of the seeds.
        near_heads: Number of heads of the windowed attention.
        far_heads: Number of heads of the latent attention.
        head_dims: Width of a head; a multiple of 4.
        window: Height and width of the windows in seeds; None attends globally.
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
        # Separate layers: with a shared one, backward of either half keeps the whole output.
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
        size, rows = x.shape[1:3], rows_at_once(x, self.near.window)
        if rows is None:
            # Both halves read the same copy of the seeds, which backward keeps.
            windows, keys = self.near.partition(x, valid)
            near = self.near_proj(self.near(self.near_qkv(windows), size, keys, scale))
            far = self._far(windows.reshape(x.shape[0], -1, x.shape[-1]), keys)
            return self.near.merge(near + far.reshape_as(near), size)
        total = self._far(x.flatten(1, 2), valid).reshape_as(x)
        valid = [None] * -(-size[0] // rows) if valid is None else valid.split(rows, dim=1)
        for far, part, known in zip(total.split(rows, 1), x.split(rows, 1), valid, strict=True):
            windows, keys = self.near.partition(part, known)
            near = self.near(self.near_qkv(windows), part.shape[1:3], keys, scale)
            far += self.near.merge(self.near_proj(near), part.shape[1:3])
        return total

    def _far(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Map seeds (B, n, D), of which some are invalid (B, n or windows of them), likewise."""
        valid = None if valid is None else valid.reshape(x.shape[:2])
        return self.far_proj(self.far(self.far_qkv(x), valid))


class PerceptionBlock(nn.Module):
    """Pre-norm transformer block over the seed map.

    Args:
        dims: Width of the seeds.
        attn: Attention of the block.
        mlp_ratio: Hidden width of the feed-forward layers as a multiple of ``dims``.
        bias: Whether the feed-forward layers have biases.
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
        for part in x.split(rows, dim=1):  # in place: x is not used elsewhere
            part += self.mlp(self.norm2(part))
        return x


class ObjectPerception(nn.Module):
    """Sequence of perception blocks; the paper has a windowed and then a global one.

    Args:
        blocks: The blocks.
        with_cp: Backward computes the blocks, or only the first so many, once more, to save memory.
    """

    def __init__(self, *blocks: PerceptionBlock, with_cp: bool | int = False) -> None:
        super().__init__()
        if not 0 <= with_cp <= max(len(blocks), 1):
            raise ValueError(f"with_cp must be a bool or 0 to {len(blocks)} blocks, got {with_cp}")
        self.blocks, self.with_cp = nn.ModuleList(blocks), with_cp

    def forward(
        self, x: Tensor, valid: Tensor | None = None, scale: Tensor | float = 1.0
    ) -> Tensor:
        """Map seeds (B, h, w, D) to seeds (B, h, w, D); see :class:`SeedAttention`."""
        if not (self.with_cp and self.training and torch.is_grad_enabled()):
            for block in self.blocks:
                x = block(x, valid, scale)
            return x
        n, compiled = len(x), torch.compiler.is_compiling()
        # As in rows_at_once; several threads lose more in the many small steps than they gain.
        if x.device.type == "cpu" and torch.get_num_threads() == 1 and not compiled:
            n = max(_SEEDS_AT_ONCE // (x.shape[1] * x.shape[2]), 1)
        parts = []
        for i, part in enumerate(x.split(n)):
            own = slice(i * n, (i + 1) * n)
            known = None if valid is None else valid[own]
            factor = scale[own] if isinstance(scale, Tensor) else scale
            for number, block in enumerate(self.blocks):
                if self.with_cp is True or number < self.with_cp:
                    part = checkpoint(block, part, known, factor, use_reentrant=False)
                else:
                    part = block(part, known, factor)
            parts.append(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)
