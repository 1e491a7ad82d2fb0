"""The paper's feature pyramid over dense maps of one resolution."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.registry import MODELS


class UpsampleConv(nn.Module):
    """3x3 convolution, BatchNorm, GELU, then a 4x4 stride-2 transposed convolution, BatchNorm.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(in_channels)
        self.act = nn.GELU()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1)
        self.up_norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', 2H, 2W)."""
        return self.up_norm(self.up(self.act(self.norm(self.conv(x)))))


@MODELS.register_module()
class TokenPyramid(BaseModule):
    """Four dense maps of one resolution -> levels at x4, x2, x1 and x1/2 of it.

    Args:
        in_channels: Channels of the dense maps.
        out_channels: Channels of the four levels, finest first.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: ``out_channels`` has another length than four.

    Reference:
        Shao et al. (2024), arXiv:2403.18593, section 3.5.
    """

    def __init__(
        self,
        in_channels: int = 768,
        out_channels: tuple[int, int, int, int] = (128, 256, 512, 512),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(out_channels) != 4:
            raise ConfigError(
                "model.neck.out_channels has the wrong length",
                expected="4 levels: x4, x2, x1, x1/2",
                found=f"{len(out_channels)} levels",
                remedy="give four widths",
            )
        c4, c2, c1, c_half = out_channels
        self.up4 = nn.Sequential(
            UpsampleConv(in_channels, in_channels), UpsampleConv(in_channels, c4)
        )
        self.up2 = UpsampleConv(in_channels, c2)
        self.keep = nn.Conv2d(in_channels, c1, kernel_size=3, padding=1)
        self.down2 = nn.Conv2d(in_channels, c_half, kernel_size=2, stride=2)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            maps: Four (B, C, H, W) maps, shallowest block first.

        Returns:
            (B, C4, 4H, 4W), (B, C2, 2H, 2W), (B, C1, H, W), (B, C½, H // 2, W // 2).

        Raises:
            ConfigError: Another number of maps comes in.
        """
        if len(maps) != 4:
            raise ConfigError(
                "model.neck needs four maps",
                expected="4 entries in model.backbone.out_indices",
                found=f"{len(maps)} maps",
                remedy="set out_indices to four blocks",
            )
        return self.up4(maps[0]), self.up2(maps[1]), self.keep(maps[2]), self.down2(maps[3])
