"""Segmentation with a tokenizer, on mmseg's ``EncoderDecoder``."""

from collections.abc import Sequence

import torch
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor

from hook.errors import ConfigError
from hook.models.token_model import TokenModel
from hook.registry import MODELS
from hook.structures import ImageTokens
from hook.tokenizers import ImageFacts


@MODELS.register_module()
class TokenSegmentor(TokenModel, EncoderDecoder):
    """mmseg's ``EncoderDecoder`` whose samples come back with the tokens of their image.

    Options and keys of the weights are those of ``EncoderDecoder``, and any backbone works. For
    what goes in and comes out see :class:`hook.models.TokenModel`.

    Args:
        backbone: Config of the backbone.
        decode_head: Config of the decode head.
        **kwargs: Further options of ``EncoderDecoder``: ``neck``, ``auxiliary_head``,
            ``train_cfg``, ``test_cfg``, ``data_preprocessor``, ``pretrained``, ``init_cfg``.

    Raises:
        ConfigError: The preprocessor has ``mark_invalid=True`` and the tokenizer takes no validity.
    """

    def __init__(self, backbone: dict, decode_head: dict, **kwargs) -> None:
        super().__init__(backbone, decode_head, **kwargs)
        self.check_tokenizer()

    def extract_feat(
        self, inputs: Tensor, facts: ImageFacts | None = None, num_tokens: int | None = None
    ) -> tuple[Tensor, ...]:
        """Give the features of images (B, C, H, W) that the head takes."""
        return self._extract(inputs, facts, num_tokens)[0]

    def encode_decode(
        self,
        inputs: Tensor,
        batch_img_metas: list[dict],
        facts: ImageFacts | None = None,
        num_tokens: int | None = None,
    ) -> Tensor:
        """Give the logits of images or crops in one pass."""
        features = self.extract_feat(inputs, facts, num_tokens)
        return self.decode_head.predict(features, batch_img_metas, self.test_cfg)

    def inference(
        self,
        inputs: Tensor,
        batch_img_metas: list[dict],
        facts: ImageFacts | None = None,
        num_tokens: int | None = None,
    ) -> Tensor:
        """Give the logits of images, as a whole or sliding over crops (``test_cfg.mode``).

        Args:
            inputs: (B, C, H, W) images as the preprocessor gives them.
            batch_img_metas: Meta fields of each image.
            facts: See :meth:`hook.models.TokenModel.image_facts`.
            num_tokens: Number of tokens; None takes what the model would.

        Returns:
            (B, K, H, W).
        """
        crops = self._crops(inputs)
        if len(crops) == 1:
            return self.encode_decode(inputs, batch_img_metas, facts, num_tokens)
        logits = inputs.new_zeros(len(inputs), self.out_channels, *inputs.shape[-2:])
        passes = inputs.new_zeros(1, 1, *inputs.shape[-2:])
        for crop in crops:
            part = inputs[crop]
            metas = [meta | {"img_shape": part.shape[-2:]} for meta in batch_img_metas]
            known = facts and facts.change_images(lambda image, crop=crop: image[crop])
            logits[crop] += self.encode_decode(part, metas, known, num_tokens)
            passes[crop] += 1
        return logits / passes

    def inference_with_tokens(
        self,
        inputs: Tensor,
        batch_img_metas: list[dict],
        facts: ImageFacts | None = None,
        num_tokens: int | None = None,
    ) -> tuple[Tensor, list[ImageTokens] | None]:
        """Give logits as :meth:`inference` does, and the tokens that they were made from.

        Returns:
            (B, K, H, W) logits, and the tokens of each image; None where the backbone has none, or
            the images went through in several crops.
        """
        if len(self._crops(inputs)) > 1:
            return self.inference(inputs, batch_img_metas, facts, num_tokens), None
        features, tokens = self._extract(inputs, facts, num_tokens, with_tokens=True)
        return self.decode_head.predict(features, batch_img_metas, self.test_cfg), tokens

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Compute the losses of the heads for images (B, C, H, W)."""
        features = self.extract_feat(inputs, self.image_facts(inputs, data_samples))
        losses = self._decode_head_forward_train(features, data_samples)
        if self.with_auxiliary_head:
            losses |= self._auxiliary_head_forward_train(features, data_samples)
        return losses

    def check_one_pass(self, inputs: Tensor) -> None:
        """Refuse images that go through the model in several crops, each with its own tokens.

        Raises:
            ConfigError: ``test_cfg`` slides over them.
        """
        if len(self._crops(inputs)) > 1:
            height, width = inputs.shape[-2:]
            raise ConfigError(
                "the model cuts a window into several images, whose tokens are not one window's",
                expected="test_cfg.mode='whole', or windows of its crop_size",
                found=f"crops of {tuple(self.test_cfg['crop_size'])} pixels, images of "
                f"{height} x {width}",
                remedy="choose the model's crop size with --window",
            )

    def _infer(
        self,
        inputs: Tensor,
        data_samples: Sequence[SegDataSample] | None,
        facts: ImageFacts,
        num_tokens: int | None,
    ) -> tuple[Tensor, list[ImageTokens] | None]:
        size = tuple(inputs.shape[-2:])
        metas = [dict(ori_shape=size, img_shape=size, pad_shape=size)] * len(inputs)
        if data_samples is not None:
            metas = [sample.metainfo for sample in data_samples]
        return self.inference_with_tokens(inputs, metas, facts, num_tokens)

    def _scores(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return logits.softmax(dim=1) if logits.shape[1] > 1 else logits.sigmoid()

    def _answer(
        self, result: Tensor, are_scores: bool, data_samples: Sequence[SegDataSample] | None
    ) -> list[SegDataSample]:
        if are_scores:
            # postprocess_result expects logits; these give back the scores.
            many = result.shape[1] > 1
            result = result.clamp_min(1e-12).log() if many else torch.logit(result, eps=1e-6)
        return self.postprocess_result(result, data_samples)

    def _extract(
        self,
        inputs: Tensor,
        facts: ImageFacts | None,
        num_tokens: int | None,
        with_tokens: bool = False,
    ) -> tuple[tuple[Tensor, ...], list[ImageTokens] | None]:
        """Give what the head takes, and the tokens where asked for."""
        features, tokens = self._run_backbone(inputs, facts, num_tokens, with_tokens)
        return (self.neck(features) if self.with_neck else features), tokens

    def _forward(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None
    ) -> Tensor:
        """Give the head's output as it is, as ``mode='tensor'`` asks for it."""
        return self.decode_head(self.extract_feat(inputs, self.image_facts(inputs, data_samples)))

    def _crops(self, inputs: Tensor) -> list[tuple]:
        """Cut images as ``test_cfg`` says: indexes of the crops, one for images as a whole."""
        options = self.test_cfg or {}
        mode = options.get("mode", "whole")
        if mode not in ("whole", "slide"):
            raise ConfigError(
                "model.test_cfg.mode is unknown",
                expected="'whole' or 'slide'",
                found=mode,
                remedy="correct it, or leave it out for whole images",
            )
        if mode == "whole":
            return [(...,)]
        starts = []
        sides = zip(inputs.shape[-2:], options["crop_size"], options["stride"], strict=True)
        for length, crop, stride in sides:
            number = max(length - crop + stride - 1, 0) // stride + 1
            starts.append([max(min(i * stride, length - crop), 0) for i in range(number)])
        height, width = options["crop_size"]
        return [
            (..., slice(row, row + height), slice(column, column + width))
            for row in starts[0]
            for column in starts[1]
        ]
