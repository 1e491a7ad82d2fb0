"""Networks that tell images from reconstructions, patch by patch."""

import math

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.registry import MODELS


@MODELS.register_module()
class PatchDiscriminator(BaseModule):
    """PatchGAN: 4x4 convolutions, the first ``num_layers`` of stride 2.

    Args:
        in_channels: Bands of the images.
        embed_dims: Width of the first convolution; it doubles with each layer, up to 8 times.
        num_layers: Layers of stride 2 (official: 3; RQ-VAE: 2).
        norm: ``"batch"``, as in all official systems, or ``"group"``, GroupNorm with up to 32
            groups, for small batches.
        init_cfg: MMEngine's initialisation config. The default draws convolutions from N(0, 0.02).

    Raises:
        ConfigError: ``norm`` is unknown.

    Reference:
        Isola et al. (2017), arXiv:1611.07004.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 64,
        num_layers: int = 3,
        norm: str = "batch",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if norm not in ("batch", "group"):
            raise ConfigError(
                "discriminator.norm",
                expected="'batch' or 'group'",
                found=norm,
                remedy="choose one of them",
            )
        self.in_channels = in_channels
        layers = [nn.Conv2d(in_channels, embed_dims, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = embed_dims
        for i in range(1, num_layers + 1):
            before, width = width, embed_dims * min(2**i, 8)
            stride = 2 if i < num_layers else 1
            layers += [
                nn.Conv2d(before, width, 4, stride, 1, bias=False),
                nn.BatchNorm2d(width)
                if norm == "batch"
                else nn.GroupNorm(math.gcd(32, width), width),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, 1, h, w) of being real."""
        return self.main(images)


@MODELS.register_module()
class BlurDiscriminator(BaseModule):
    """Discriminator that blurs before it subsamples, of Open-MAGVIT2's pre-training.

    A 5x5 convolution; stages of a 3x3 convolution, blurred subsampling and GroupNorm; 1x1 and 5x5
    convolutions to the logits. Sizes that no stride divides are padded right and bottom.

    Args:
        in_channels: Bands of the images.
        embed_dims: Width of the first stage; it doubles with each stage.
        num_stages: Stages, each of stride 2.
        blur: Whether a binomial filter subsamples, or the mean of 2x2 positions.
        kernel_size: Side of the filter: 4 is (1, 3, 3, 1) in both directions.
        num_groups: Groups of GroupNorm.
        init_cfg: MMEngine's initialisation config.

    Reference:
        Luo et al. (2024), arXiv:2409.04410; Zhang (2019), arXiv:1904.11486.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 128,
        num_stages: int = 3,
        blur: bool = True,
        kernel_size: int = 4,
        num_groups: int = 32,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if embed_dims % num_groups:
            raise ConfigError(
                "discriminator.num_groups does not divide embed_dims",
                expected=f"a divisor of {embed_dims}",
                found=num_groups,
                remedy="change num_groups or embed_dims",
            )
        self.in_channels = in_channels
        stem = nn.Conv2d(in_channels, embed_dims, 5, padding=2)
        self.block_in = nn.Sequential(stem, nn.LeakyReLU(0.1))
        self.blocks = nn.ModuleList()
        width = embed_dims
        for i in range(num_stages):
            before, width = width, embed_dims * 2**i
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(before, width, 3, padding=1),
                    _Blur(kernel_size) if blur else nn.AvgPool2d(2),
                    nn.GroupNorm(num_groups, width),
                    nn.LeakyReLU(0.1),
                )
            )
        self.to_logits = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.LeakyReLU(0.1), nn.Conv2d(width, 1, 5, padding=2)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, 1, h, w) of being real."""
        x = self.block_in(images)
        for block in self.blocks:
            x = block(x)
        return self.to_logits(x)


class _Blur(nn.Module):
    """Binomial filter with stride 2 over zero-padded maps, of size ceil(side / 2)."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        row = torch.tensor([math.comb(kernel_size - 1, k) for k in range(kernel_size)]).float()
        kernel = torch.outer(row, row) / row.sum() ** 2
        self.register_buffer("kernel", kernel[None, None])

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        before, after = (kernel.shape[-1] - 1) // 2, kernel.shape[-1] // 2
        return F.conv2d(F.pad(x, (before, after) * 2), kernel, stride=2, groups=x.shape[1])
