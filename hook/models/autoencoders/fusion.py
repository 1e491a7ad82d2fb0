"""VFM-VAE's encoder: multi-level features of a frozen vision model, fused into latents."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.models.autoencoders.blocks import EPS, Network
from hook.registry import MODELS


class ProjectionAttention(nn.Module):
    """Self-attention that changes the width of tokens; queries and values have a bias, keys none.

    To a smaller width it attends at the input's and averages over the heads; if a head is not as
    wide as the output, its channels are pooled to that number. Otherwise it attends at the output's
    width and concatenates the heads.

    Args:
        in_dims: Width of the input.
        out_dims: Width of the output.
        num_heads: Heads; they divide the wider of the two.
    """

    def __init__(self, in_dims: int, out_dims: int, num_heads: int) -> None:
        super().__init__()
        width = max(in_dims, out_dims)
        if width % num_heads:
            raise ConfigError(
                "num_heads does not divide the width of the attention",
                expected=f"a divisor of {width}",
                found=num_heads,
                remedy="change num_heads",
            )
        self.num_heads, self.shrinks, self.out_dims = num_heads, in_dims > out_dims, out_dims
        self.qkv = nn.Linear(in_dims, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(out_dims, out_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C')."""
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(2, (3, self.num_heads, -1))
        x = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))  # (B, heads, N, C / heads)
        if not self.shrinks:
            return self.proj(x.transpose(1, 2).flatten(2))
        return self.proj(F.adaptive_avg_pool1d(x.mean(dim=1), self.out_dims))


class GatedMLP(nn.Module):
    """LayerNorm, then a linear layer on tanh-GELU(w0 x) * (w1 x) of twice the width."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dims, eps=EPS)
        self.w0 = nn.Linear(dims, 2 * dims)
        self.w1 = nn.Linear(dims, 2 * dims)
        self.w2 = nn.Linear(2 * dims, dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        x = self.norm(x)
        return self.w2(F.gelu(self.w0(x), approximate="tanh") * self.w1(x))


class ProjectionBlock(nn.Module):
    """Linear(LN(x)) + attention(LN(x)), then a gated MLP with a residual connection."""

    def __init__(self, in_dims: int, out_dims: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_dims)
        self.attn = ProjectionAttention(in_dims, out_dims, num_heads)
        self.norm3 = nn.LayerNorm(in_dims)
        self.proj = nn.Linear(in_dims, out_dims)
        self.norm2 = nn.LayerNorm(out_dims)
        self.mlp = GatedMLP(out_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C')."""
        x = self.proj(self.norm3(x)) + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@MODELS.register_module()
class AttentionProjection(nn.Module):
    """Tokens of one width to tokens of another by attention.

    Args:
        in_dims: Width of the input.
        out_dims: Width of the output.
        num_heads: Heads; None for the ratio of the two widths, or the next divisor of the wider
            one below it.
        num_layers: Number of blocks; one of them changes the width.
        change: Which one: ``"last"``, used for encoding, or ``"first"``, used for decoding.

    Raises:
        ConfigError: The heads do not divide the wider of the two widths, or ``change`` is unknown.
    """

    def __init__(
        self,
        in_dims: int,
        out_dims: int,
        num_heads: int | None = None,
        num_layers: int = 1,
        change: str = "last",
    ) -> None:
        super().__init__()
        if change not in ("last", "first"):
            raise ConfigError(
                "change is unknown",
                expected="'last' or 'first'",
                found=change,
                remedy="choose one of them",
            )
        if num_heads is None:
            wide, narrow = max(in_dims, out_dims), min(in_dims, out_dims)
            num_heads = next(n for n in range(wide // narrow, 0, -1) if wide % n == 0)
        constant = [(out_dims, out_dims) if change == "first" else (in_dims, in_dims)]
        widths = constant * (num_layers - 1)
        widths.insert(0 if change == "first" else len(widths), (in_dims, out_dims))
        self.blocks = nn.Sequential(*(ProjectionBlock(i, o, num_heads) for i, o in widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, C) to (B, N, C'), or a map (B, C, H, W) to (B, C', H, W)."""
        if x.dim() == 3:
            return self.blocks(x)
        return self.blocks(x.flatten(2).mT).mT.unflatten(2, x.shape[2:])


def build_projection(in_channels: int, out_channels: int, kind: str, **attention_cfg) -> nn.Module:
    """Build a projection of maps, ``"attention"`` over all positions or ``"conv"``, 1x1.

    Raises:
        ConfigError: The kind is unknown.
    """
    if kind == "conv":
        return nn.Conv2d(in_channels, out_channels, 1)
    if kind == "attention":
        return AttentionProjection(in_channels, out_channels, **attention_cfg)
    raise ConfigError(
        "projection is unknown",
        expected="'attention' or 'conv'",
        found=kind,
        remedy="choose one of them",
    )


@MODELS.register_module()
class FusionEncoder(Network):
    """Feature maps of a frozen vision model to the moments of a Gaussian (VFM-VAE).

    Each level is projected to few channels, brought to the grid of the latents by space to depth,
    and all levels together are projected to the moments. The defaults are those of SigLIP2-L/16
    on images enlarged twice: three levels of 1,024 channels at stride 8 of the image.

    Args:
        backbone: Config of the frozen model in MODELS, images (B, C, H, W) to a sequence of maps;
            None if only maps that were computed before are passed.
        level_channels: Channels of each level.
        level_strides: Stride of each level in pixels of the images.
        mid_channels: Channels of each level after its projection, before space to depth.
        out_channels: Channels of the moments, twice those of the sample.
        stride: Stride of the latents in pixels of the images.
        projection: ``"attention"`` (:class:`AttentionProjection`) or ``"conv"`` (1x1).
        num_layers: Blocks of each attention projection.
        in_channels: Bands of the images.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: The lists differ in length, a level is coarser than the latents, or
            ``projection`` is unknown.

    Reference:
        Bi et al. (2025), "Vision Foundation Models Can Be Good Tokenizers for Latent Diffusion
        Models", arXiv:2510.18457.
    """

    receptive_field = None  # the frozen model and attention see the whole image

    def __init__(
        self,
        backbone: dict | None = None,
        level_channels: tuple[int, ...] = (1024, 1024, 1024),
        level_strides: tuple[int, ...] = (8, 8, 8),
        mid_channels: tuple[int, ...] = (64, 64, 64),
        out_channels: int = 64,
        stride: int = 16,
        projection: str = "attention",
        num_layers: int = 1,
        in_channels: int = 3,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, init_cfg)
        if not len(level_channels) == len(level_strides) == len(mid_channels):
            raise ConfigError(
                "level_channels, level_strides and mid_channels differ in length",
                expected="one entry per level of the frozen model",
                found=(level_channels, level_strides, mid_channels),
                remedy="give each of the three one entry per level",
            )
        if any(stride % level for level in level_strides):
            raise ConfigError(
                "level_strides has a grid that the latents' does not divide",
                expected=f"divisors of the stride {stride}",
                found=level_strides,
                remedy="leave out levels coarser than the latents, or enlarge the frozen model's "
                "input",
            )
        self.backbone = MODELS.build(backbone) if backbone else None
        kind, cfg = projection, dict(num_layers=num_layers) if projection == "attention" else {}
        factors = [stride // level for level in level_strides]
        self.branches = nn.ModuleList(
            build_projection(i, o, kind, **cfg)
            for i, o in zip(level_channels, mid_channels, strict=True)
        )
        self.unshuffles = nn.ModuleList(nn.PixelUnshuffle(factor) for factor in factors)
        width = sum(c * f**2 for c, f in zip(mid_channels, factors, strict=True))
        self.fuse = build_projection(width, out_channels, kind, **cfg)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight at which the adaptive weights of losses compare gradients."""
        last = self.fuse
        return last.weight if isinstance(last, nn.Conv2d) else last.blocks[-1].mlp.w2.weight

    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Map images (B, C, H, W), or the maps of the backbone's levels, to (B, D, h, w)."""
        return self.fuse(torch.cat(self.project_levels(images), dim=1))

    def project_levels(self, images: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Return each level's channels on the grid of the latents.

        Raises:
            ConfigError: The frozen model has another number of levels.
        """
        levels = self.backbone(images) if isinstance(images, Tensor) and self.backbone else images
        if len(levels) != len(self.branches):
            raise ConfigError(
                "level_channels does not match the frozen model",
                expected=f"{len(self.branches)} levels",
                found=f"{len(levels)} maps",
                remedy="change level_channels, or the levels of the frozen model",
            )
        return [
            unshuffle(branch(level))
            for branch, unshuffle, level in zip(self.branches, self.unshuffles, levels, strict=True)
        ]
