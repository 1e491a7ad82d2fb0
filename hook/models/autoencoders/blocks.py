"""Parts that the convolutional encoders and decoders share."""

import itertools

import torch.nn.functional as F
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from hook.errors import ConfigError

EPS = 1e-6
NORMS = ("group", "channel")


def norm_layer(channels: int, norm: str = "group", num_groups: int = 32) -> nn.Module:
    """Build the normalisation of a feature map, with eps 1e-6.

    Args:
        channels: Channels of the map.
        norm: ``"group"``, GroupNorm, whose statistics cover all positions, or ``"channel"``,
            LayerNorm over the channels of each position, with which the result at a position
            does not depend on the size of the image.
        num_groups: Groups of GroupNorm.

    Raises:
        ConfigError: ``norm`` is unknown, or the groups do not divide the channels.
    """
    if norm not in NORMS:
        raise ConfigError(
            "norm is unknown",
            expected=NORMS,
            found=norm,
            remedy="choose one of them",
        )
    if norm == "channel":
        return LayerNorm2d(channels, eps=EPS)
    if channels % num_groups:
        raise ConfigError(
            "num_groups does not divide a width of the network",
            expected=f"a divisor of {channels}",
            found=num_groups,
            remedy="set num_groups, or choose embed_dims and channel_mult accordingly",
        )
    return nn.GroupNorm(num_groups, channels, eps=EPS)


class ResBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, plus the input (1x1 convolution if the width changes).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        bias: Whether the convolutions have a bias.
        drop_rate: Dropout in front of the second convolution.
        norm_cfg: ``norm`` and ``num_groups`` of :func:`norm_layer`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        drop_rate: float = 0.0,
        **norm_cfg,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(in_channels, **norm_cfg)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
        self.norm2 = norm_layer(out_channels, **norm_cfg)
        self.dropout = nn.Dropout(drop_rate)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions of a feature map, with a residual connection.

    Args:
        channels: Channels of the map.
        norm_cfg: ``norm`` and ``num_groups`` of :func:`norm_layer`.
    """

    def __init__(self, channels: int, **norm_cfg) -> None:
        super().__init__()
        self.norm = norm_layer(channels, **norm_cfg)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2)[:, None] for f in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h[:, 0].transpose(1, 2).reshape(x.shape))


class DepthToSpace(nn.Module):
    """Channels ordered (row offset, column offset, channel) to a grid of twice the size.

    ``torch.nn.PixelShuffle`` expects the channel first.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 4 C, H, W) to (B, C, 2 H, 2 W)."""
        return F.pixel_shuffle(x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2), 2)


def make_level(
    in_channels: int, out_channels: int, num_blocks: int, attention: bool = False, **res_cfg
) -> nn.ModuleDict:
    """Build the ResBlocks of one resolution, the first of which changes the width.

    Args:
        in_channels: Input channels.
        out_channels: Channels after the first block.
        num_blocks: Number of blocks.
        attention: Whether an AttnBlock follows each of them.
        res_cfg: Other options of :class:`ResBlock`.
    """
    norm_cfg = {key: res_cfg[key] for key in ("norm", "num_groups") if key in res_cfg}
    widths = [in_channels] + [out_channels] * num_blocks
    return nn.ModuleDict(
        dict(
            block=nn.ModuleList(ResBlock(i, o, **res_cfg) for i, o in itertools.pairwise(widths)),
            attn=nn.ModuleList(AttnBlock(o, **norm_cfg) for o in widths[1:] if attention),
        )
    )


def run_level(level: nn.ModuleDict, x: Tensor) -> Tensor:
    """Apply the blocks of :func:`make_level` and, where there is one, the change of resolution."""
    for i, block in enumerate(level["block"]):
        x = block(x)
        if level["attn"]:
            x = level["attn"][i](x)
    for name in ("downsample", "upsample"):
        x = level[name](x) if name in level else x
    return x


class Network(BaseModule):
    """Base of the encoders and decoders.

    Attributes:
        in_channels: Channels of the input map.
        out_channels: Channels of the output map.
        stride: Side of a latent's square in pixels.
        decodes: Whether latents become images, not images latents.
    """

    decodes = False

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight at which the adaptive weights of losses compare gradients.

        Official systems take the encoder's ``conv_out`` although a 1x1 convolution follows it.
        """
        return self.conv_out.weight

    @property
    def receptive_field(self) -> tuple[int, int] | None:
        """How far a latent and the pixels of its square depend on others, before and after.

        Encoder: pixels before and after its own square that a latent depends on. Decoder: latents
        before and after the own that any pixel of a square depends on. Exact, and equal for rows
        and columns; None if norms or attention connect all positions.
        """
        low, high = 0, self.stride - 1 if self.decodes else 0
        # Modules are registered in the order of execution; a 1x1 shortcut beside a 3x3 convolution
        # changes nothing.
        for module in reversed(list(self.modules())):
            if isinstance(module, (nn.GroupNorm, AttnBlock)):
                return None
            if isinstance(module, nn.Conv2d):
                kernel, stride, padding = (
                    value[0] for value in (module.kernel_size, module.stride, module.padding)
                )
                low, high = low * stride - padding, high * stride - padding + kernel - 1
            elif isinstance(module, nn.PixelUnshuffle):
                factor = module.downscale_factor
                low, high = low * factor, high * factor + factor - 1
            elif isinstance(module, (nn.PixelShuffle, nn.Upsample, DepthToSpace)):
                factor = getattr(module, "upscale_factor", 2)
                low, high = low // factor, high // factor
        return -low, high if self.decodes else high - self.stride + 1
