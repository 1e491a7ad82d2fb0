"""The paper's decode head."""

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
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
        levels = self._transform_inputs(inputs)
        size = levels[0].shape[-2:]
        projected = []
        for level, projection in zip(levels, self.projections, strict=True):
            x = projection(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # B C H W
            if x.shape[-2:] != size:
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)
            projected.append(x)
        return self.cls_seg(self.fuse(torch.cat(projected[::-1], dim=1)))
