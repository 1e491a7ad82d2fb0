"""Seed stem: one feature vector for every 4x4-pixel seed (paper, section 3.1)."""

from torch import Tensor, nn


class ConvNormAct(nn.Module):
    """3x3 convolution, BatchNorm and GELU with a residual connection around the three.

    Args:
        channels: Number of input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x + self.act(self.norm(self.conv(x)))


class DownsampleConv(nn.Module):
    """2x2 stride-2 convolution and BatchNorm.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H // 2, W // 2)."""
        return self.norm(self.conv(x))


class SeedStem(nn.Module):
    """The paper's stem, from pixels at full resolution to seeds at a quarter of it.

    Args:
        in_channels: Number of image bands.
        seed_dims: Width of a seed feature.
        widths: Channels at full, half and quarter resolution.
    """

    stride = 4

    def __init__(
        self, in_channels: int, seed_dims: int, widths: tuple[int, int, int] = (64, 128, 256)
    ) -> None:
        super().__init__()
        full, half, quarter = widths
        self.expand = nn.Conv2d(in_channels, full, kernel_size=1)
        self.residual1 = ConvNormAct(full)
        self.down1 = DownsampleConv(full, half)
        self.residual2 = ConvNormAct(half)
        self.down2 = DownsampleConv(half, quarter)
        self.project = nn.Conv2d(quarter, seed_dims, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to seeds (B, D, H // 4, W // 4)."""
        x = self.down1(self.residual1(self.expand(x)))
        x = self.down2(self.residual2(x))
        return self.project(x)
