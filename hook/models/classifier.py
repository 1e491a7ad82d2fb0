"""Scene classification on MMEngine's ``BaseModel``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hook.models.image_model import ImageModel
from hook.models.token_model import TokenModel
from hook.registry import MODELS
from hook.structures import ClsDataSample, ImageTokens
from hook.tokenizers import ImageFacts


@MODELS.register_module()
class TokenClassifier(TokenModel, ImageModel):
    """Backbone and head for scene classification; see :class:`hook.models.TokenModel`.

    Args:
        backbone: Config of a backbone that returns tokens (B, N, D).
        head: Config of a classification head.
        data_preprocessor: Config of the preprocessor.
        region_loss: Config of a loss such as ``hook.RegionLoss`` with ``from_labels=False``, for a
            tokenizer of the preset ``"objects"``.
        test_cfg: Options of predictions: ``tta``, see :meth:`hook.models.TokenModel.predict`.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: The tokenizer does not support ``mark_invalid=True`` of the preprocessor.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        data_preprocessor: dict | None = None,
        region_loss: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.head = MODELS.build(head)
        self.test_cfg = test_cfg or {}
        self.check_tokenizer()
        self.build_region_loss(region_loss)

    def infer(
        self,
        inputs: Tensor,
        facts: ImageFacts | None = None,
        num_tokens: int | None = None,
        metas: list[dict] | None = None,
        with_tokens: bool = False,
    ) -> tuple[Tensor, list[ImageTokens] | None]:
        """Return logits (B, K); see the base."""
        features, tokens = self.extract(inputs, facts, num_tokens, with_tokens)
        return self.head(features), tokens

    def _forward(self, inputs: Tensor, data_samples: list[ClsDataSample] | None = None) -> Tensor:
        """Return logits (B, K), for ``mode='tensor'``."""
        return self.infer(inputs, self.image_facts(inputs, data_samples))[0]

    def loss(self, inputs: Tensor, data_samples: list[ClsDataSample]) -> dict[str, Tensor]:
        """Compute the head's losses for images (B, C, H, W)."""
        features, losses = self.extract_with_region_loss(inputs, data_samples)
        return losses | self.head.loss(features, data_samples)

    def _scores(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)

    def _answer(
        self, result: Tensor, are_scores: bool, data_samples: Sequence[ClsDataSample] | None
    ) -> list[ClsDataSample]:
        scores = result if are_scores else self._scores(result)
        samples = data_samples or [ClsDataSample() for _ in range(len(scores))]
        for sample, score in zip(samples, scores, strict=True):
            if sample.get("blank", False):  # nothing to classify
                sample.pred_score = torch.full_like(score, torch.nan)
                continue
            sample.pred_label = int(score.argmax())
            sample.pred_score = score.detach()
        return samples
