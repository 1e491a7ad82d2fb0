"""Segmentation losses for rare classes that need no compiled ops.

Thin shells that give ``segmentation_models_pytorch``'s losses the call of mmseg's decode heads.
"""

from collections.abc import Callable

from segmentation_models_pytorch.losses import DiceLoss as SmpDiceLoss
from segmentation_models_pytorch.losses import FocalLoss as SmpFocalLoss
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.registry import MODELS


class _DecodeLoss(nn.Module):
    """Hold the weight and the name mmseg asks of a loss."""

    def __init__(self, build: Callable, loss_weight: float, loss_name: str) -> None:
        super().__init__()
        self.build = build
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        **kwargs,
    ) -> Tensor:
        """Compute the loss.

        Args:
            logits: (B, K, H, W).
            target: (B, H, W) class indices.
            weight: Pixel weights of mmseg's samplers, which these losses do not take.
            ignore_index: Label that does not count.
            **kwargs: What else mmseg passes; unused.

        Raises:
            ConfigError: Pixel weights were given.
        """
        if weight is not None:
            raise ConfigError(
                f"{type(self).__name__} takes no pixel weights",
                found="a pixel sampler in the decode head",
                remedy="remove `sampler` from the head, or use CrossEntropyLoss",
            )
        return self.loss_weight * self.build(ignore_index)(logits.float(), target)


@MODELS.register_module()
class DiceLoss(_DecodeLoss):
    """One minus the soft Dice coefficient, averaged over the classes present.

    Args:
        smooth: Added to numerator and denominator.
        loss_weight: Factor of the loss.
        loss_name: Name in the log; must start with ``loss_``.

    Reference:
        Milletari et al., "V-Net", 3DV 2016.
    """

    def __init__(
        self, smooth: float = 1.0, loss_weight: float = 1.0, loss_name: str = "loss_dice"
    ) -> None:
        super().__init__(
            lambda ignore: SmpDiceLoss(mode="multiclass", smooth=smooth, ignore_index=ignore),
            loss_weight,
            loss_name,
        )


@MODELS.register_module()
class FocalLoss(_DecodeLoss):
    """Cross entropy that fades for pixels already classified well.

    Args:
        gamma: How fast it fades.
        alpha: Weight of the positives against the negatives of each class; None for equal.
        loss_weight: Factor of the loss.
        loss_name: Name in the log; must start with ``loss_``.

    Reference:
        Lin et al., "Focal loss for dense object detection", ICCV 2017.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = None,
        loss_weight: float = 1.0,
        loss_name: str = "loss_focal",
    ) -> None:
        super().__init__(
            lambda ignore: SmpFocalLoss(
                mode="multiclass", gamma=gamma, alpha=alpha, ignore_index=ignore
            ),
            loss_weight,
            loss_name,
        )
