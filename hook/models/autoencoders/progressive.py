"""VFM-VAE's progressive decoder, written from the paper's description.

The attention blocks follow GigaGAN (Kang et al., 2023, arXiv:2303.05511), the modulation of weights
StyleGAN2 (Karras et al., 2020, arXiv:1912.04958), the convolutional blocks ConvNeXt (Liu et al.,
2022, arXiv:2201.03545).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.models.autoencoders.blocks import Network
from hook.models.autoencoders.fusion import build_projection
from hook.registry import MODELS


def group_norm(channels: int) -> nn.GroupNorm:
    """Build a GroupNorm with at most 32 groups of at least 4 channels, as many as divide them."""
    return nn.GroupNorm(math.gcd(min(32, max(1, channels // 4)), channels), channels)


class RMSNorm(nn.Module):
    """RMSNorm over the dimension that the first of ``shape`` stands for."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        shape = self.gamma.shape
        return F.normalize(x, dim=-len(shape)) * shape[0] ** 0.5 * self.gamma


@MODELS.register_module()
class NullKeyAttention(nn.Module):
    """Attention of a map to itself or to tokens, with a learned key to rest on, then an MLP.

    Args:
        channels: Channels of the map.
        num_heads: Number of heads.
        head_dims: Width of a head.
        context_dims: Width of the tokens attended to; None for self-attention.
        mask_null: Hide the learned key where a mask is given, as the official code does; by
            default it is always seen.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        head_dims: int = 64,
        context_dims: int | None = None,
        mask_null: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.mask_null = num_heads, mask_null
        width = num_heads * head_dims
        self.norm = RMSNorm(channels, 1, 1)
        self.to_q = nn.Conv2d(channels, width, 1, bias=False)
        if context_dims is None:
            self.to_k = nn.Conv2d(channels, width, 1, bias=False)
            self.to_v = nn.Conv2d(channels, width, 1, bias=False)
        else:
            self.norm_context = RMSNorm(context_dims)
            self.to_kv = nn.Linear(context_dims, 2 * width, bias=False)
        self.null_kv = nn.Parameter(torch.randn(2, num_heads, head_dims))
        self.to_out = nn.Conv2d(width, channels, 1, bias=False)
        self.ff = nn.Sequential(
            RMSNorm(channels, 1, 1),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, C, H, W).
            context: (B, M, D) tokens, for cross-attention.
            mask: (B, M) bool, True for tokens that are seen.

        Returns:
            (B, C, H, W).
        """
        h = self.norm(x)
        if context is None:
            k, v = (to(h).flatten(2).transpose(1, 2) for to in (self.to_k, self.to_v))
        else:
            k, v = self.to_kv(self.norm_context(context)).chunk(2, dim=-1)
        q = self.to_q(h).flatten(2).transpose(1, 2)
        q, k, v = (t.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        null_k, null_v = self.null_kv[:, None, :, None].expand(-1, len(x), -1, -1, -1)
        if mask is not None:
            mask = F.pad(mask, (1, 0), value=not self.mask_null)[:, None, None]
        h = F.scaled_dot_product_attention(
            q, torch.cat((null_k, k), dim=2), torch.cat((null_v, v), dim=2), attn_mask=mask
        )
        x = x + self.to_out(h.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))
        return x + self.ff(x)


@MODELS.register_module()
class BlurUpsample(nn.Module):
    """GroupNorm, depthwise 3x3, 1x1, pixel shuffle, then a fixed binomial blur with edges repeated.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        blur_size: Side of the blur, e.g. 3 for (1, 2, 1) / 4.
        post_norm: Normalise after the pixel shuffle instead of at the start.
    """

    def __init__(
        self, in_channels: int, out_channels: int, blur_size: int = 3, post_norm: bool = False
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm = group_norm(out_channels if post_norm else in_channels)
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, 4 * out_channels, 1, bias=False)
        row = torch.ones(1)
        for _ in range(blur_size - 1):
            row = F.pad(row, (0, 1)) / 2 + F.pad(row, (1, 0)) / 2
        blur = torch.outer(row, row).expand(out_channels, 1, -1, -1)
        self.register_buffer("blur", blur.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', 2 H, 2 W)."""
        x = x if self.post_norm else self.norm(x)
        x = F.pixel_shuffle(self.pointwise(self.depthwise(x)), 2)
        x = self.norm(x) if self.post_norm else x
        before, after = (self.blur.shape[-1] - 1) // 2, self.blur.shape[-1] // 2
        x = F.pad(x, (before, after, before, after), mode="replicate")
        return F.conv2d(x, self.blur.to(x.dtype), groups=x.shape[1])


class ModulatedConv(nn.Module):
    """1x1 convolution whose input channels are scaled by a code of each image.

    ``demodulate`` divides each output channel by the norm of its scaled weights.
    """

    def __init__(
        self, in_channels: int, out_channels: int, code_dims: int, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.demodulate = demodulate
        self.scale = nn.Linear(code_dims, in_channels)
        nn.init.ones_(self.scale.bias)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels) * in_channels**-0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Map x (B, C, H, W) and code (B, D) to (B, C', H, W)."""
        scale = self.scale(code)
        x = F.conv2d(x * scale[..., None, None], self.weight[..., None, None])
        if self.demodulate:
            square = scale.float().square() @ self.weight.float().square().T
            x = x * (square + 1e-8).rsqrt()[..., None, None].to(x.dtype)
        return x + self.bias[:, None, None]


class ModulatedConvNeXt(nn.Module):
    """Depthwise convolution, GroupNorm, modulated 1x1 to 4 C, GELU, 1x1, layer scale, residual."""

    def __init__(self, channels: int, code_dims: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        )
        self.norm = group_norm(channels)
        self.expand = ModulatedConv(channels, 4 * channels, code_dims)
        self.reduce = nn.Conv2d(4 * channels, channels, 1)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 1e-5))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Map x (B, C, H, W) and code (B, D) to (B, C, H, W)."""
        h = F.gelu(self.expand(self.norm(self.depthwise(x)), code))
        return x + self.gamma * self.reduce(h)


@MODELS.register_module()
class ProgressiveDecoder(Network):
    """Latents to images in stages of doubling size, each of which adds to the image (VFM-VAE).

    The latents are decompressed to a wide map. A code per image, from the mean of that map, scales
    the channels of every stage; the first stages also take the map itself, resized: by space to
    depth where the stage is coarser than the latents, else bilinearly. Each stage's image is added
    to the enlarged one of the stage before, so that a loss can compare every size
    (:meth:`pyramid`). The last stage has the size of the images.

    The defaults are VFM-VAE's for 256 pixels: stages of 8 to 256 pixels from 16 x 16 latents. What
    its paper leaves open is chosen here: ConvNeXt's 7 x 7 kernels, GELU, 64 channels per attention
    head, no learned constant at the start, and bilinear enlargement of the images.

    Args:
        in_channels: Channels of the latents.
        out_channels: Bands of the images.
        stride: Stride of the latents in pixels of the images, a power of 2.
        stage_channels: Channels of each stage, coarsest first; n stages begin at stride 2^(n - 1).
        latent_channels: Channels to which each of the first stages maps the latents.
        attn_stages: Number of first stages with self-attention.
        num_blocks: ConvNeXt blocks of a stage, and attention blocks.
        decompress_factor: The decompressed map has this times ``in_channels`` channels.
        decompression: ``"attention"`` or ``"conv"``.
        num_layers: Blocks of the attention projection that decompresses.
        code_dims: Width of the code.
        head_dims: Width of an attention head.
        kernel_size: Side of the depthwise convolutions.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: ``latent_channels`` does not fit the stages, or ``stride`` is no power of 2.
    """

    decodes = True
    receptive_field = None  # the code and attention depend on all latents

    def __init__(
        self,
        in_channels: int = 32,
        out_channels: int = 3,
        stride: int = 16,
        stage_channels: tuple[int, ...] = (512, 512, 512, 512, 256, 128),
        latent_channels: tuple[int, ...] = (512, 256, 128, 128),
        attn_stages: int = 3,
        num_blocks: int = 2,
        decompress_factor: int = 16,
        decompression: str = "attention",
        num_layers: int = 1,
        code_dims: int = 512,
        head_dims: int = 64,
        kernel_size: int = 7,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, init_cfg)
        if not 0 < len(latent_channels) <= len(stage_channels):
            raise ConfigError(
                "latent_channels does not fit stage_channels",
                expected=f"1 to {len(stage_channels)} widths, the first stage's first",
                found=latent_channels,
                remedy="change latent_channels",
            )
        if stride & (stride - 1):
            raise ConfigError(
                "stride of the decoder",
                expected="a power of 2",
                found=stride,
                remedy="choose a power of 2",
            )
        cfg = dict(num_layers=num_layers, change="first") if decompression == "attention" else {}
        dims = in_channels * decompress_factor
        self.decompress = build_projection(in_channels, dims, decompression, **cfg)
        self.code = nn.Sequential(
            nn.Linear(dims, code_dims), nn.SiLU(), nn.Linear(code_dims, code_dims), nn.SiLU()
        )
        self.strides = [2**i for i in reversed(range(len(stage_channels)))]
        self.stages, before = nn.ModuleList(), 0
        for i, channels in enumerate(stage_channels):
            stage = nn.ModuleDict()
            if i > 0:
                stage["upsample"] = BlurUpsample(before, channels)
            if i < len(latent_channels):
                gathered = dims * max(1, self.strides[i] // stride) ** 2
                stage["latents"] = nn.Sequential(
                    nn.Conv2d(gathered, latent_channels[i], 1), nn.GELU()
                )
                joined = latent_channels[i] + (channels if i > 0 else 0)
                stage["merge"] = nn.Conv2d(joined, channels, 1)
            heads = max(1, channels // head_dims)
            stage["attention"] = nn.Sequential(
                *(
                    NullKeyAttention(channels, heads, head_dims)
                    for _ in range(num_blocks if i < attn_stages else 0)
                )
            )
            stage["blocks"] = nn.ModuleList(
                ModulatedConvNeXt(channels, code_dims, kernel_size) for _ in range(num_blocks)
            )
            stage["to_image"] = ModulatedConv(channels, out_channels, code_dims, demodulate=False)
            self.stages.append(stage)
            before = channels

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight at which the adaptive weights of losses compare gradients."""
        return self.stages[-1]["to_image"].weight

    def forward(self, latents: Tensor) -> Tensor:
        """Map (B, D, h, w) to (B, C, h * stride, w * stride)."""
        return self.pyramid(latents)[-1]

    def pyramid(self, latents: Tensor) -> list[Tensor]:
        """Return the image after every stage, coarsest first; the last has the full size.

        A stage of stride s has h * stride / s rows and w * stride / s columns, rounded up.
        """
        wide = self.decompress(latents)
        code = self.code(wide.mean(dim=(2, 3)))
        factor = max(1, self.strides[0] // self.stride)  # latents in a cell of the first stage
        height, width = latents.shape[-2:]
        wide = F.pad(wide, (0, -width % factor, 0, -height % factor), mode="replicate")
        x = image = None
        images = []
        for stage, stride in zip(self.stages, self.strides, strict=True):
            parts = [] if x is None else [stage["upsample"](x)]
            if "latents" in stage:
                if stride > self.stride:
                    resized = F.pixel_unshuffle(wide, stride // self.stride)
                else:
                    scale = self.stride // stride
                    resized = F.interpolate(wide, scale_factor=scale, mode="bilinear")
                parts.append(stage["latents"](resized))
            x = torch.cat(parts, dim=1)
            x = stage["attention"](stage["merge"](x) if "merge" in stage else x)
            for block in stage["blocks"]:
                x = block(x, code)
            added = stage["to_image"](x, code)
            if image is not None:
                added = added + F.interpolate(image, scale_factor=2, mode="bilinear")
            image = added
            rows, columns = (-(-size * self.stride // stride) for size in (height, width))
            images.append(image[..., :rows, :columns])
        return images
