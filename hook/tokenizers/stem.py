"""Seed stems: one feature vector for every 4x4-pixel seed (paper, section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gelu(x: Tensor) -> Tensor:
    """Apply GELU to a tensor not used elsewhere, in place without gradients to save memory."""
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


def adapt_bands(weight: Tensor, in_channels: int) -> Tensor:
    """Adapt the weights of a first convolution to a different number of bands.

    For more bands the weights are repeated in order and divided by the number of repetitions; for
    fewer, the weights of adjacent bands are summed. Either way the response to an image of equal
    bands is unchanged.

    Args:
        weight: (O, C, h, w) weights for C bands.
        in_channels: New number of bands.

    Returns:
        (O, in_channels, h, w) weights.
    """
    bands = weight.shape[1]
    if in_channels < bands:
        groups = weight.tensor_split(in_channels, dim=1)
        return torch.cat([group.sum(dim=1, keepdim=True) for group in groups], dim=1)
    turns = torch.arange(in_channels) % bands
    shared = torch.bincount(turns, minlength=bands)[turns]
    return weight[:, turns] / shared.view(1, -1, 1, 1)


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Apply a convolution and its BatchNorm, fused into one convolution outside training."""
    if norm.training:
        return norm(conv(x))
    gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * gain[:, None, None, None]
    bias = (conv.bias - norm.running_mean) * gain + norm.bias
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


class ConvNormAct(nn.Module):
    """3x3 convolution, BatchNorm and GELU with a residual connection around the three.

    Args:
        channels: Number of input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x + gelu(conv_norm(x, self.conv, self.norm))


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
        return conv_norm(x, self.conv, self.norm)


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


def pool_valid(valid: Tensor) -> Tensor:
    """Halve a validity mask (B, 1, H, W): a cell is valid if any of its four pixels is."""
    return F.max_pool2d(valid, kernel_size=2)


class StridedStem(nn.Module):
    """The paper's stem without its layers at full resolution.

    2x2 convolution of stride 2 to half resolution, a residual 3x3 convolution, 2x2 convolution of
    stride 2 to the seeds. Only the residual branch is nonlinear; more or larger kernels fit the
    training images better and generalise worse.

    Args:
        in_channels: Number of image bands.
        seed_dims: Width of a seed feature.
        width: Channels at half resolution.
    """

    stride = 4

    def __init__(self, in_channels: int, seed_dims: int, width: int = 64) -> None:
        super().__init__()
        self.down1 = DownsampleConv(in_channels, width)
        self.residual1 = ConvNormAct(width)
        self.down2 = DownsampleConv(width, seed_dims)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W), H and W multiples of 4, to seeds (B, D, H / 4, W / 4).

        Args:
            x: Images, zero where not valid.
            valid: (B, 1, H, W) of zeros and ones; None: all are valid. Invalid cells are set to
                zero after every layer, as biases, norms and the 3x3 kernel would fill them.
        """
        # The fastest layout for convolutions, in which the seeds are a sequence.
        x = x.contiguous(memory_format=torch.channels_last)
        half = quarter = None
        if valid is not None:
            half = pool_valid(valid)
            quarter = pool_valid(half)
        x = _keep(self.down1(x), half)
        x = _keep(self.residual1(x), half)
        return _keep(self.down2(x), quarter)


def _keep(x: Tensor, valid: Tensor | None) -> Tensor:
    """Set invalid cells to zero."""
    return x if valid is None else x * valid
