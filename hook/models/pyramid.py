"""Feature pyramids from dense maps of one resolution: the paper's, and one for seeds."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hook.errors import ConfigError
from hook.registry import MODELS
from hook.tokenizers.stem import ConvNormAct


def _check_widths(out_channels: tuple[int, ...], levels: str) -> None:
    if len(out_channels) != 4:
        raise ConfigError(
            "model.neck.out_channels has the wrong length",
            expected=f"4 levels: {levels}",
            found=f"{len(out_channels)} levels",
            remedy="set four widths",
        )


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
        ConfigError: ``out_channels`` does not have four values.

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
        _check_widths(out_channels, "x4, x2, x1, x1/2")
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
            ConfigError: The number of maps is wrong.
        """
        if len(maps) != 4:
            raise ConfigError(
                "model.neck needs four maps",
                expected="4 entries in model.backbone.out_indices",
                found=f"{len(maps)} maps",
                remedy="set out_indices to four blocks",
            )
        return self.up4(maps[0]), self.up2(maps[1]), self.keep(maps[2]), self.down2(maps[3])


class _Pool(torch.autograd.Function):
    """Mean of cells of k x k pixels; unlike PyTorch's, it keeps no map for backward."""

    @staticmethod
    def forward(ctx, x: Tensor, k: int) -> Tensor:
        ctx.size, ctx.k = x.shape, k
        return F.avg_pool2d(x, k, ceil_mode=True, count_include_pad=False)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        like = grad.new_zeros(()).expand(ctx.size)
        cells = [ctx.k] * 2
        back = torch.ops.aten.avg_pool2d_backward
        return back(grad, like, cells, cells, [0, 0], True, False, None), None


@MODELS.register_module()
class SeedPyramid(BaseModule):
    """Token maps and seeds of one resolution -> levels at x1, x1/2, x1/4 and x1/8 of it.

    At each level, the pooled and projected token map and the seeds after strided 3x3 convolutions
    are added, followed by a residual 3x3 convolution. Either input is optional.

    Args:
        in_channels: Channels of the four token maps; None for a pyramid of seeds only, which passes
            on all other maps after the levels.
        seed_channels: Channels of the seeds; None for a pyramid of token maps only.
        out_channels: Channels of the levels, finest first.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: ``out_channels`` does not have four values, or there is no input.
    """

    def __init__(
        self,
        in_channels: int | None = 768,
        seed_channels: int | None = None,
        out_channels: tuple[int, int, int, int] = (64, 96, 128, 128),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_widths(out_channels, "x1, x1/2, x1/4, x1/8")
        if in_channels is None and seed_channels is None:
            raise ConfigError(
                "model.neck has no input",
                expected="in_channels (of the token maps), seed_channels, or both",
                found="None for both",
                remedy="set the width of the tokens, of the seeds, or both",
            )
        self.num_maps = 0 if in_channels is None else 4
        self.project = nn.ModuleList()
        if in_channels is not None:
            self.project.extend(nn.Conv2d(in_channels, c, kernel_size=1) for c in out_channels)
        self.descend = nn.ModuleList()
        if seed_channels is not None:
            first = nn.Sequential(
                nn.Conv2d(seed_channels, out_channels[0], kernel_size=3, padding=1),
                nn.BatchNorm2d(out_channels[0]),
                nn.GELU(),
            )
            self.descend.append(first)
            for wide, deep in zip(out_channels[:-1], out_channels[1:], strict=True):
                step = nn.Sequential(
                    nn.Conv2d(wide, deep, kernel_size=3, stride=2, padding=1),
                    nn.BatchNorm2d(deep),
                    nn.GELU(),
                    ConvNormAct(deep),
                )
                self.descend.append(step)
        self.join = nn.ModuleList(ConvNormAct(c) for c in out_channels)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            maps: Four token maps (B, C, H, W), shallowest block first, then the seeds
                (B, D, H, W); without the input that the pyramid does not use. A pyramid of seeds
                only also accepts a token map, the seeds, and partitions of the seeds.

        Returns:
            (B, C1, H, W), (B, C2, H / 2, W / 2), (B, C3, H / 4, W / 4), (B, C4, H / 8, W / 8),
            sides rounded up; then the token map and the partitions, if given.

        Raises:
            ConfigError: The number of maps is wrong.
        """
        passed_on: tuple[Tensor, ...] = ()
        if not self.num_maps and len(maps) == 3:
            passed_on, maps = (maps[0], maps[2]), maps[1:2]
        expected = self.num_maps + bool(self.descend)
        if len(maps) != expected:
            raise ConfigError(
                "model.neck got the wrong number of maps",
                expected=f"{self.num_maps} token maps"
                + (" and the seeds" if self.descend else ", no seeds"),
                found=f"{len(maps)} maps",
                remedy="set model.backbone.out_indices to four blocks, and model.backbone."
                "seed_skip to whether model.neck.seed_channels is set",
            )
        levels, below = [], maps[-1]
        for i, join in enumerate(self.join):
            x = None
            if self.descend:
                x = below = self.descend[i](below)
            if self.project:
                pooled = maps[i]
                if i:
                    pooled = _Pool.apply(pooled, 2**i)
                tokens = self.project[i](pooled)
                if x is not None and x.shape[-2:] != tokens.shape[-2:]:
                    raise ConfigError(
                        "model.neck got token maps and seeds of different sizes",
                        expected=f"token maps of {maps[-1].shape[-2]} x {maps[-1].shape[-1]} cells",
                        found=f"{tokens.shape[-2]} x {tokens.shape[-1]}",
                        remedy="set model.backbone.dense_size to the seeds' grid (img_size / 4), "
                        "or model.backbone.tokenizer.assign to 'token'",
                    )
                x = tokens if x is None else x + tokens
            levels.append(join(x))
        return (*levels, *passed_on)
