"""Segmentation losses that exclude ignored pixels and need no compiled ops.

mmseg's cross entropy fails with class weights together with ``avg_non_ignore``, its focal loss
needs compiled ops, and its Dice loss counts predictions on ignored pixels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss as SmpDiceLoss
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.registry import MODELS


def class_weights(weights: Sequence[float] | None, option: str) -> Tensor | None:
    """Return class weights as a float32 tensor, checked; None without weights.

    Args:
        weights: One per class.
        option: Name of the option in the message.

    Raises:
        ConfigError: A weight is negative or not finite, or all are zero.
    """
    if weights is None:
        return None
    if not all(weight >= 0 and math.isfinite(weight) for weight in weights) or not any(weights):
        raise ConfigError(
            f"{option} cannot weight a mean",
            expected="numbers of 0 or more, at least one above 0",
            found=list(weights),
            remedy="set the weight of a class that must not count to 0",
        )
    return torch.tensor(weights, dtype=torch.float32)


def weighted_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return PyTorch's mean cross entropy; zero if the weights of all labels add up to zero.

    Args:
        logits: (B, K, ...).
        target: (B, ...) class indices, or (B, K) probabilities.
        weight: K class weights.
        ignore_index: Class index that does not count.
        label_smoothing: Share of the target distributed equally over all classes.
    """
    if not target.is_floating_point():
        counted = target != ignore_index
        if weight is not None and not weight.all():
            counted &= weight[target.where(counted, 0)] > 0
        if not counted.any():
            return logits.sum() * 0.0  # the mean over a total weight of zero is NaN
    return F.cross_entropy(
        logits, target, weight, ignore_index=ignore_index, label_smoothing=label_smoothing
    )


class _DecodeLoss(nn.Module):
    """Interface of mmseg's decode heads; subclasses define ``compute``."""

    def __init__(self, loss_weight: float, loss_name: str) -> None:
        super().__init__()
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
            weight: Pixel weights of mmseg's samplers; not supported (ConfigError).
            ignore_index: Label to ignore.
            **kwargs: Other arguments of mmseg; unused.
        """
        if weight is not None:
            raise ConfigError(
                f"{type(self).__name__} does not support pixel weights",
                found="a pixel sampler in the decode head",
                remedy="remove `sampler` from the head, or use mmseg.CrossEntropyLoss",
            )
        return self.loss_weight * self.compute(logits.float(), target, ignore_index)


class _WeightedLoss(_DecodeLoss):
    """Base class of losses with class weights."""

    def __init__(
        self, class_weight: Sequence[float] | None, loss_weight: float, loss_name: str
    ) -> None:
        super().__init__(loss_weight, loss_name)
        weight = class_weights(class_weight, f"{type(self).__name__}.class_weight")
        self.register_buffer("class_weight", weight, persistent=False)

    def _check(self, logits: Tensor) -> None:
        if self.class_weight is not None and len(self.class_weight) != logits.shape[1]:
            raise ConfigError(
                f"{type(self).__name__}.class_weight has the wrong length",
                expected=f"{logits.shape[1]} weights, one per class",
                found=f"{len(self.class_weight)} weights",
                remedy="set one weight per class in the order of metainfo['classes']",
            )


@MODELS.register_module()
class CrossEntropyLoss(_WeightedLoss):
    """Cross entropy averaged over labelled pixels, weighted by class; zero without any.

    Args:
        class_weight: K weights of the classes; pixels of a class of weight 0 do not count.
        label_smoothing: Share of the target distributed equally over all classes.
        loss_weight: Factor of the loss.
        loss_name: Name in the log; must start with ``loss_``.
    """

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        loss_weight: float = 1.0,
        loss_name: str = "loss_ce",
    ) -> None:
        super().__init__(class_weight, loss_weight, loss_name)
        self.label_smoothing = label_smoothing

    def compute(self, logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        """Compute the loss of logits (B, K, H, W) for labels (B, H, W)."""
        self._check(logits)
        return weighted_cross_entropy(
            logits, target, self.class_weight, ignore_index, self.label_smoothing
        )


@MODELS.register_module()
class FocalLoss(_WeightedLoss):
    """Focal loss averaged over labelled pixels.

    Args:
        gamma: Focusing parameter, 0 or more; larger values down-weight well-classified pixels
            more.
        class_weight: K weights of the classes (the paper's alpha).
        loss_weight: Factor of the loss.
        loss_name: Name in the log; must start with ``loss_``.

    Reference:
        Lin et al., "Focal loss for dense object detection", ICCV 2017, equation 5, over a softmax.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        loss_name: str = "loss_focal",
    ) -> None:
        super().__init__(class_weight, loss_weight, loss_name)
        if not 0 <= gamma < math.inf:
            raise ConfigError(
                "FocalLoss.gamma is out of range",
                expected="a number of 0 or more",
                found=gamma,
                remedy="set it to 2.0, or to 0 for the cross entropy",
            )
        self.gamma = gamma

    def compute(self, logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        """Compute the loss of logits (B, K, H, W) for labels (B, H, W)."""
        self._check(logits)
        counts = target != ignore_index
        entropy = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
        missed = 1 - torch.exp(-entropy)
        # Below gamma = 1 the slope of the power is infinite at a probability of exactly 1, where
        # the loss itself is flat; ignored pixels have an entropy of 0 too.
        missed = missed.clamp(min=torch.finfo(missed.dtype).tiny)
        loss = missed**self.gamma * entropy
        if self.class_weight is not None:
            loss = loss * self.class_weight[target.where(counts, 0)]
        return loss.sum() / counts.sum().clamp(min=1)


@MODELS.register_module()
class DiceLoss(_DecodeLoss):
    """One minus the soft Dice coefficient over the batch, averaged over the classes present.

    Present are the classes of the batch's labelled pixels; the loss is zero without any.

    Args:
        smooth: Added to numerator and denominator.
        loss_weight: Factor of the loss.
        loss_name: Name in the log; must start with ``loss_``.

    Reference:
        Milletari et al., "V-Net", 3DV 2016; computed by ``segmentation_models_pytorch``.
    """

    def __init__(
        self, smooth: float = 1.0, loss_weight: float = 1.0, loss_name: str = "loss_dice"
    ) -> None:
        super().__init__(loss_weight, loss_name)
        self.smooth = smooth

    def compute(self, logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        """Compute the loss of logits (B, K, H, W) for labels (B, H, W)."""
        present = target[target != ignore_index].unique().tolist()
        if not present:
            return logits.sum() * 0.0
        # Without ``classes`` absent ones would count as terms of zero.
        dice = SmpDiceLoss(
            mode="multiclass", classes=present, smooth=self.smooth, ignore_index=ignore_index
        )
        return dice(logits, target)
