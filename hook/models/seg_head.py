"""The paper's decode head, and one with the context of regions."""

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from timm.layers import DropPath
from torch import Tensor, nn

from hook.registry import MODELS


@MODELS.register_module()
class SegFormerStyleHead(BaseDecodeHead):
    """Per-level linear projection, bilinear resize to the finest, 1x1 fuse, dropout, classifier.

    Unlike in mmseg's ``SegformerHead``, projections and fuse have no norm or activation, and the
    levels are concatenated coarsest first.

    Args:
        in_channels: Channels of the levels, finest first.
        channels: Width of the decoder.
        in_index: Levels to use; None uses all.
        init_cfg: MMEngine's initialisation config; None keeps PyTorch's, as the paper does.
        **kwargs: Options of mmseg's ``BaseDecodeHead``.

    Reference:
        Shao et al. (2024), arXiv:2403.18593, after Xie et al., "SegFormer", NeurIPS 2021.
    """

    def __init__(
        self,
        in_channels: list[int],
        channels: int = 256,
        in_index: list[int] | None = None,
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            channels=channels,
            in_index=list(range(len(in_channels))) if in_index is None else in_index,
            input_transform="multiple_select",
            init_cfg=init_cfg,
            **kwargs,
        )
        self.projections = nn.ModuleList(nn.Linear(width, channels) for width in self.in_channels)
        self.fuse = nn.Conv2d(channels * len(self.in_channels), channels, kernel_size=1)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Map levels (B, C_i, H_i, W_i) to logits (B, K, H_0, W_0)."""
        return self.cls_seg(self.fused(inputs))

    def fused(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Map levels (B, C_i, H_i, W_i) to features (B, channels, H_0, W_0)."""
        levels = self._transform_inputs(inputs)
        size = levels[0].shape[-2:]
        # The fuse commutes with the resize, so each level passes its part at its own resolution.
        parts = self.fuse.weight.flatten(1).split(self.channels, dim=1)
        total = self.fuse.bias[:, None, None]
        for level, projection, part in zip(levels, self.projections, parts[::-1], strict=True):
            x = F.linear(projection(level.permute(0, 2, 3, 1)), part).permute(0, 3, 1, 2)  # B C H W
            if x.shape[-2:] != size:
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)
            total = total + x
        return total


@MODELS.register_module()
class RegionContextHead(SegFormerStyleHead):
    """:class:`SegFormerStyleHead` with what each region knows added to its pixels.

    For each of several nested partitions of the image, the mean of a region's features and tokens
    passes through two linear layers, and the result is added to the features of all its seeds. The
    last layer starts at zero, so that training starts from the head without regions.

    Args:
        in_channels: Channels of the levels, finest first.
        token_channels: Width of the tokens D.
        channels: Width of the decoder.
        region_levels: Number of partitions, as of :class:`hook.models.TokenViT`.
        drop_path: Probability that a training image goes without.
        **kwargs: Options of :class:`SegFormerStyleHead`.
    """

    def __init__(
        self,
        in_channels: list[int],
        token_channels: int,
        channels: int = 256,
        region_levels: int = 1,
        drop_path: float = 0.0,
        **kwargs,
    ) -> None:
        kwargs.setdefault("in_index", list(range(len(in_channels))))
        super().__init__(in_channels, channels, **kwargs)
        width = channels + token_channels
        self.contexts = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 2 * channels),
                nn.GELU(),
                nn.Linear(2 * channels, channels),
            )
            for _ in range(region_levels)
        )
        for context in self.contexts:
            nn.init.zeros_(context[-1].weight)
            nn.init.zeros_(context[-1].bias)
        self.drop_path = DropPath(drop_path)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Map levels (B, C_i, H_i, W_i), a token map and partitions to logits.

        Args:
            inputs: The levels; (B, D, H_0, W_0) tokens spread over their seeds; (B, L, H_0, W_0)
                int64 regions of the seeds, nested, the finest first; those of -1 are in none, and
                get nothing added.

        Returns:
            (B, K, H_0, W_0).
        """
        *levels, token_map, partitions = inputs
        features = self.fused(tuple(levels))
        b, _, h, w = features.shape
        image = torch.arange(b, device=features.device)[:, None, None]
        indexes = []
        for regions in partitions.unbind(1):
            number = int(regions.max()) + 2  # the first of an image is for seeds in no region
            indexes.append((regions + 1 + number * image).flatten())
        finest = indexes[0]
        sizes = torch.bincount(finest)
        sums = [
            x.new_zeros(len(sizes), x.shape[1]).index_add(
                0, finest, x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).contiguous()
            )
            for x in (features, token_map)
        ]
        sums = torch.cat(sums, dim=1)
        total = 0
        for index, context in zip(indexes, self.contexts, strict=True):
            # Nested: a region is the union of regions of the finest partition; only the last token
            # of an image in more parts than tokens may be in several, of which the last one counts.
            parent = torch.zeros_like(sizes).scatter_reduce_(0, finest, index, "amax")
            number = int(parent.max()) + 1
            joined = sums.new_zeros(number, sums.shape[1]).index_add(0, parent, sums)
            count = torch.zeros_like(sizes[:number]).index_add(0, parent, sizes).clamp(min=1)
            total = total + context(joined / count[:, None]).index_select(0, parent)
        total = total.index_select(0, finest) * (partitions[:, 0] >= 0).flatten()[:, None]
        total = total.reshape(b, h, w, -1).permute(0, 3, 1, 2)
        return self.cls_seg(features + self.drop_path(total))
