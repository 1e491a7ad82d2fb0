"""Encoder and decoder of VQGAN, as LDM, VA-VAE, RQ-VAE and IBQ use them."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.models.autoencoders.blocks import (
    AttnBlock,
    Network,
    ResBlock,
    make_level,
    norm_layer,
    run_level,
)
from hook.registry import MODELS


def _attention(attn_levels: tuple[int, ...], num_levels: int) -> set[int]:
    if any(not -num_levels <= level < num_levels for level in attn_levels):
        raise ConfigError(
            "attn_levels names a level that channel_mult does not have",
            expected=f"numbers from {-num_levels} to {num_levels - 1}",
            found=attn_levels,
            remedy="correct attn_levels",
        )
    return {level % num_levels for level in attn_levels}


def _mid(
    width: int, num_blocks: int, attention: bool, res_cfg: dict, norm_cfg: dict
) -> nn.Sequential:
    parts = OrderedDict()
    for i in range(1, num_blocks + 1):
        parts[f"block_{i}"] = ResBlock(width, width, **res_cfg, **norm_cfg)
        if i == 1 and attention:
            parts["attn_1"] = AttnBlock(width, **norm_cfg)
    return nn.Sequential(parts)


@MODELS.register_module()
class VQGANEncoder(Network):
    """Images to latents by levels of ResBlocks, each but the last followed by a stride of 2.

    The defaults are those of LDM's autoencoder at stride 16. With ``norm="channel"``,
    ``attn_levels=()`` and ``mid_attention=False`` a latent depends on a window of the image alone
    (:attr:`receptive_field`), so that a scene can be encoded by windows with a margin.

    Args:
        in_channels: Bands of the images.
        embed_dims: Width of the first convolution.
        channel_mult: Width of each level, finest first, in multiples of ``embed_dims``.
        num_res_blocks: ResBlocks per level.
        out_channels: Channels of the latents; for a Gaussian, twice those of the sample.
        z_channels: Width in front of a 1x1 convolution that ends the network (``quant_conv``);
            None for no such convolution.
        attn_levels: Levels with an AttnBlock after each ResBlock, 0 the finest, -1 the coarsest.
            Official configs give the nominal resolutions ``attn_resolutions`` of these levels.
        mid_blocks: ResBlocks after the levels. They see farthest: without them the margin of a
            window is about half as wide.
        mid_attention: Whether an AttnBlock follows the first of them.
        patch_size: Pixels of this square are gathered into channels (space to depth) at the start.
        norm: ``"group"``, GroupNorm with statistics over all positions, or ``"channel"``, LayerNorm
            over the channels of each position.
        num_groups: Groups of GroupNorm.
        drop_rate: Dropout inside the ResBlocks.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: A level does not exist, or the groups do not divide a width.

    Reference:
        Esser et al. (2021), arXiv:2012.09841; Rombach et al. (2022), arXiv:2112.10752.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 128,
        channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        out_channels: int = 64,
        z_channels: int | None = None,
        attn_levels: tuple[int, ...] = (-1,),
        mid_blocks: int = 2,
        mid_attention: bool = True,
        patch_size: int = 1,
        norm: str = "group",
        num_groups: int = 32,
        drop_rate: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        last = len(channel_mult) - 1
        super().__init__(in_channels, out_channels, patch_size * 2**last, init_cfg)
        attention = _attention(attn_levels, len(channel_mult))
        norm_cfg, res_cfg = dict(norm=norm, num_groups=num_groups), dict(drop_rate=drop_rate)
        self.unshuffle = nn.PixelUnshuffle(patch_size)
        self.conv_in = nn.Conv2d(in_channels * patch_size**2, embed_dims, 3, padding=1)
        self.down, width = nn.ModuleList(), embed_dims
        for i, mult in enumerate(channel_mult):
            level = make_level(
                width, embed_dims * mult, num_res_blocks, i in attention, **res_cfg, **norm_cfg
            )
            width = embed_dims * mult if num_res_blocks else width
            if i < last:
                level["downsample"] = nn.Sequential(
                    OrderedDict(
                        pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=nn.Conv2d(width, width, 3, stride=2)
                    )
                )
            self.down.append(level)
        self.mid = _mid(width, mid_blocks, mid_attention, res_cfg, norm_cfg)
        self.norm_out = norm_layer(width, **norm_cfg)
        self.conv_out = nn.Conv2d(width, z_channels or out_channels, 3, padding=1)
        self.quant_conv = nn.Conv2d(z_channels, out_channels, 1) if z_channels else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / stride, W / stride)."""
        x = self.conv_in(self.unshuffle(images))
        for level in self.down:
            x = run_level(level, x)
        x = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return self.quant_conv(x)


@MODELS.register_module()
class VQGANDecoder(Network):
    """Latents to images: the mirror of :class:`VQGANEncoder`, with its other arguments.

    Args:
        in_channels: Channels of the latents.
        out_channels: Bands of the images.
        num_res_blocks: ResBlocks per level less one.
        z_channels: Width after a 1x1 convolution that starts the network (``post_quant_conv``);
            None for no such convolution.
        patch_size: The last convolution's channels are spread over squares of this size.

    Raises:
        ConfigError: A level does not exist, or the groups do not divide a width.
    """

    decodes = True

    def __init__(
        self,
        in_channels: int = 32,
        out_channels: int = 3,
        embed_dims: int = 128,
        channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        z_channels: int | None = None,
        attn_levels: tuple[int, ...] = (-1,),
        mid_blocks: int = 2,
        mid_attention: bool = True,
        patch_size: int = 1,
        norm: str = "group",
        num_groups: int = 32,
        drop_rate: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        last = len(channel_mult) - 1
        super().__init__(in_channels, out_channels, patch_size * 2**last, init_cfg)
        attention = _attention(attn_levels, len(channel_mult))
        norm_cfg, res_cfg = dict(norm=norm, num_groups=num_groups), dict(drop_rate=drop_rate)
        self.post_quant_conv = (
            nn.Conv2d(in_channels, z_channels, 1) if z_channels else nn.Identity()
        )
        width = embed_dims * channel_mult[-1]
        self.conv_in = nn.Conv2d(z_channels or in_channels, width, 3, padding=1)
        self.mid = _mid(width, mid_blocks, mid_attention, res_cfg, norm_cfg)
        self.up = nn.ModuleDict()  # by level, in the order of execution
        for i in range(last, -1, -1):
            before, width = width, embed_dims * channel_mult[i]
            level = make_level(
                before, width, num_res_blocks + 1, i in attention, **res_cfg, **norm_cfg
            )
            if i > 0:
                level["upsample"] = nn.Sequential(
                    OrderedDict(
                        resize=nn.Upsample(scale_factor=2),
                        conv=nn.Conv2d(width, width, 3, padding=1),
                    )
                )
            self.up[str(i)] = level
        self.norm_out = norm_layer(width, **norm_cfg)
        self.conv_out = nn.Conv2d(width, out_channels * patch_size**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(patch_size)

    def forward(self, latents: Tensor) -> Tensor:
        """Map (B, D, h, w) to (B, C, h * stride, w * stride)."""
        x = self.mid(self.conv_in(self.post_quant_conv(latents)))
        for level in self.up.values():
            x = run_level(level, x)
        return self.shuffle(self.conv_out(F.silu(self.norm_out(x))))
