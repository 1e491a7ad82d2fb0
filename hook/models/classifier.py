"""Scene classification on MMEngine's ``BaseModel``."""

import torch
from mmengine.model import BaseModel
from torch import Tensor

from hook.registry import MODELS
from hook.structures import ClsDataSample


@MODELS.register_module()
class TokenClassifier(BaseModel):
    """Backbone, head, and the three modes a runner needs.

    Args:
        backbone: Config of a backbone that gives tokens (B, N, D).
        head: Config of a classification head.
        data_preprocessor: Config of the preprocessor.
        init_cfg: MMEngine's initialisation config.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.head = MODELS.build(head)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Give the backbone's tokens (B, N, D) for images (B, C, H, W)."""
        return self.backbone(inputs)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[ClsDataSample] | None = None,
        mode: str = "tensor",
    ):
        """Run the model.

        Args:
            inputs: (B, C, H, W) normalised images.
            data_samples: Labels; needed for ``mode='loss'``, optional for ``'predict'``.
            mode: ``'tensor'`` gives logits (B, K), ``'loss'`` a dict of losses, ``'predict'`` data
                samples with ``pred_label`` and ``pred_score``.

        Raises:
            ValueError: The mode is none of the three.
        """
        if mode == "tensor":
            return self.head(self.extract_feat(inputs))
        if mode == "loss":
            return self.loss(inputs, data_samples)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")

    def loss(self, inputs: Tensor, data_samples: list[ClsDataSample]) -> dict[str, Tensor]:
        """Compute the head's losses for images (B, C, H, W)."""
        return self.head.loss(self.extract_feat(inputs), data_samples)

    def predict(
        self, inputs: Tensor, data_samples: list[ClsDataSample] | None = None
    ) -> list[ClsDataSample]:
        """Give every image (B, C, H, W) its class and the scores of all classes."""
        scores = self.head(self.extract_feat(inputs)).float().softmax(dim=1)
        labels = torch.argmax(scores, dim=1)
        samples = data_samples or [ClsDataSample() for _ in range(len(inputs))]
        for sample, label, score in zip(samples, labels, scores, strict=True):
            sample.pred_label = int(label)
            sample.pred_score = score.detach()
        return samples
