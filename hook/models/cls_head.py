"""Linear classification head over tokens."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.models.losses import class_weights, weighted_cross_entropy
from hook.registry import MODELS
from hook.structures import ClsDataSample


@MODELS.register_module()
class LinearClsHead(BaseModule):
    """Mean of the tokens, or the class token, and one linear layer.

    Args:
        num_classes: Number of classes K.
        in_channels: Width of the tokens.
        pooling: ``'mean'`` over all tokens (the paper) or ``'cls_token'`` for the first one.
        label_smoothing: Share of the target distributed equally over all classes.
        class_weight: K weights of the classes in the loss.
        topk: Values of k of the accuracy logged in training.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: The pooling is unknown, or the class weights are not K numbers of 0 or more.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 768,
        pooling: str = "mean",
        label_smoothing: float = 0.0,
        class_weight: list[float] | None = None,
        topk: tuple[int, ...] = (1,),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if pooling not in ("mean", "cls_token"):
            raise ConfigError(
                "model.head.pooling is unknown",
                expected="'mean' or 'cls_token'",
                found=pooling,
                remedy="set pooling to 'mean', or to 'cls_token' with a tokenizer that has one",
            )
        if class_weight is not None and len(class_weight) != num_classes:
            raise ConfigError(
                "model.head.class_weight has the wrong length",
                expected=f"{num_classes} weights, one per class",
                found=f"{len(class_weight)} weights",
                remedy="set one weight per class in the order of metainfo['classes']",
            )
        self.num_classes = num_classes
        self.pooling = pooling
        self.label_smoothing = label_smoothing
        self.topk = tuple(k for k in topk if k <= num_classes)
        weight = class_weights(class_weight, "model.head.class_weight")
        self.register_buffer("class_weight", weight, persistent=False)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D) to logits (B, K)."""
        pooled = tokens[:, 0] if self.pooling == "cls_token" else tokens.mean(dim=1)
        return self.fc(pooled)

    def loss(self, tokens: Tensor, data_samples: list[ClsDataSample]) -> dict[str, Tensor]:
        """Compute cross entropy and, for hard labels, the top-k accuracy in percent.

        Args:
            tokens: (B, N, D).
            data_samples: With ``gt_label``, or ``gt_score`` after mixup or cutmix.

        Returns:
            ``loss`` and one ``accuracy_top-k`` per k.
        """
        logits = self(tokens)
        soft = "gt_score" in data_samples[0]
        if soft:
            target = torch.stack([sample.gt_score for sample in data_samples]).to(logits)
        else:
            target = torch.tensor(
                [int(sample.gt_label) for sample in data_samples], device=logits.device
            )
        losses = {
            "loss": weighted_cross_entropy(
                logits.float(), target, self.class_weight, label_smoothing=self.label_smoothing
            )
        }
        if not soft:
            hits = logits.detach().topk(max(self.topk), dim=1).indices == target[:, None]
            hits &= logits.detach().isfinite().all(dim=1, keepdim=True)  # NaN ranks no class
            for k in self.topk:
                losses[f"accuracy_top-{k}"] = hits[:, :k].any(dim=1).float().mean() * 100
        return losses
