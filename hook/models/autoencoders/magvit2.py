"""Encoder and decoder of Open-MAGVIT2."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.models.autoencoders.blocks import (
    EPS,
    DepthToSpace,
    Network,
    ResBlock,
    make_level,
    norm_layer,
    run_level,
)
from hook.registry import MODELS


class AdaptiveNorm(nn.Module):
    """GroupNorm whose gain and shift per image come from the statistics of its latents.

    The gain is linear in the standard deviation of each latent channel over the positions, the
    shift in its mean. The variance is unbiased; of a single position it is 0, where the official
    code gives NaN.

    Args:
        latent_channels: Channels of the latents.
        channels: Channels of the map to normalise.
        num_groups: Groups of GroupNorm.
    """

    def __init__(self, latent_channels: int, channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels, eps=EPS, affine=False)
        self.gamma = nn.Linear(latent_channels, channels)
        self.beta = nn.Linear(latent_channels, channels)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """Map x (B, C, H, W) and latents (B, D, h, w) to (B, C, H, W)."""
        values = latents.flatten(2)
        variance, mean = torch.var_mean(values, dim=2, correction=min(1, values.shape[2] - 1))
        gamma, beta = self.gamma((variance + EPS).sqrt()), self.beta(mean)
        return self.norm(x) * gamma[..., None, None] + beta[..., None, None]


@MODELS.register_module()
class MAGVIT2Encoder(Network):
    """Images to latents by levels of ResBlocks without attention (49.8 M parameters by default).

    Args:
        in_channels: Bands of the images.
        embed_dims: Width of the first convolution.
        channel_mult: Width of each level, finest first, in multiples of ``embed_dims``. Each level
            but the last is followed by a convolution of stride 2.
        num_res_blocks: ResBlocks per level, and after the levels.
        out_channels: Channels of the latents: bits of a lookup-free quantizer.
        num_groups: Groups of GroupNorm.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: The groups do not divide a width.

    Reference:
        Luo et al. (2024), arXiv:2409.04410; Yu et al. (2024), arXiv:2310.05737.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 128,
        channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 4,
        out_channels: int = 18,
        num_groups: int = 32,
        init_cfg: dict | None = None,
    ) -> None:
        last = len(channel_mult) - 1
        super().__init__(in_channels, out_channels, 2**last, init_cfg)
        res_cfg = dict(bias=False, num_groups=num_groups)
        self.conv_in = nn.Conv2d(in_channels, embed_dims, 3, padding=1, bias=False)
        self.down, width = nn.ModuleList(), embed_dims
        for i, mult in enumerate(channel_mult):
            level = make_level(width, embed_dims * mult, num_res_blocks, **res_cfg)
            width = embed_dims * mult if num_res_blocks else width
            if i < last:
                level["downsample"] = nn.Conv2d(width, width, 3, stride=2, padding=1)
            self.down.append(level)
        self.mid_block = nn.Sequential(
            *(ResBlock(width, width, **res_cfg) for _ in range(num_res_blocks))
        )
        self.norm_out = norm_layer(width, num_groups=num_groups)
        self.conv_out = nn.Conv2d(width, out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / stride, W / stride)."""
        x = self.conv_in(images)
        for level in self.down:
            x = run_level(level, x)
        return self.conv_out(F.silu(self.norm_out(self.mid_block(x))))


@MODELS.register_module()
class MAGVIT2Decoder(Network):
    """Latents to images, the mirror of :class:`MAGVIT2Encoder` (65.4 M parameters by default).

    An adaptive norm stands before the ResBlocks of each level, as in the official code; the paper
    puts one after each block.

    Args:
        in_channels: Channels of the latents.
        out_channels: Bands of the images.

    Raises:
        ConfigError: The groups do not divide a width.
    """

    decodes = True

    def __init__(
        self,
        in_channels: int = 18,
        out_channels: int = 3,
        embed_dims: int = 128,
        channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 4,
        num_groups: int = 32,
        init_cfg: dict | None = None,
    ) -> None:
        last = len(channel_mult) - 1
        super().__init__(in_channels, out_channels, 2**last, init_cfg)
        res_cfg = dict(bias=False, num_groups=num_groups)
        width = embed_dims * channel_mult[-1]
        self.conv_in = nn.Conv2d(in_channels, width, 3, padding=1)
        self.mid_block = nn.Sequential(
            *(ResBlock(width, width, **res_cfg) for _ in range(num_res_blocks))
        )
        self.up, self.adaptive = nn.ModuleDict(), nn.ModuleDict()  # by level, coarsest first
        for i in range(last, -1, -1):
            self.adaptive[str(i)] = AdaptiveNorm(in_channels, width, num_groups)
            level = make_level(width, embed_dims * channel_mult[i], num_res_blocks, **res_cfg)
            width = embed_dims * channel_mult[i] if num_res_blocks else width
            if i > 0:
                conv = nn.Conv2d(width, 4 * width, 3, padding=1)
                level["upsample"] = nn.Sequential(OrderedDict(conv1=conv, shuffle=DepthToSpace()))
            self.up[str(i)] = level
        self.norm_out = norm_layer(width, num_groups=num_groups)
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Map (B, D, h, w) to (B, C, h * stride, w * stride)."""
        x = self.mid_block(self.conv_in(latents))
        for name, level in self.up.items():
            x = run_level(level, self.adaptive[name](x, latents))
        return self.conv_out(F.silu(self.norm_out(x)))
