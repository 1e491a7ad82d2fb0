"""Segmentation with a tokenizer, on mmseg's ``EncoderDecoder``."""

from collections.abc import Sequence

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
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
    """mmseg's ``EncoderDecoder`` that returns tokens in the data samples.

    Options and weights are those of ``EncoderDecoder``, with any backbone. See
    :class:`hook.models.TokenModel` for inputs and outputs.

    Args:
        backbone: Config of the backbone.
        decode_head: Config of the decode head.
        region_loss: Config of a loss such as :class:`hook.models.RegionLoss`, for a tokenizer of
            the preset ``"objects"``.
        **kwargs: Further options of ``EncoderDecoder``: ``neck``, ``auxiliary_head``,
            ``train_cfg``, ``test_cfg``, ``data_preprocessor``, ``pretrained``, ``init_cfg``.

    Raises:
        ConfigError: The tokenizer does not support ``mark_invalid=True`` of the preprocessor, or
            the heads ignore different labels.
    """

    def __init__(
        self, backbone: dict, decode_head: dict, region_loss: dict | None = None, **kwargs
    ) -> None:
        super().__init__(backbone, decode_head, **kwargs)
        self.check_tokenizer()
        self.build_region_loss(region_loss)
        self._pad_with_ignored_label()

    def _pad_with_ignored_label(self) -> None:
        """Pad labels with the ``ignore_index`` of the heads, unless the padding is a class."""
        labels = {head.ignore_index for head in self.modules() if isinstance(head, BaseDecodeHead)}
        if len(labels) > 1:
            raise ConfigError(
                "the heads of the model do not ignore the same label",
                expected=f"ignore_index={self.decode_head.ignore_index}, as the decode head",
                found=sorted(labels),
                remedy="set ignore_index of model.auxiliary_head too",
            )
        preprocessor = self.data_preprocessor
        padding = getattr(preprocessor, "seg_pad_val", None)
        chosen = padding in range(self.num_classes) and not getattr(
            preprocessor, "pads_ignored", False
        )
        if labels and padding is not None and not chosen:
            preprocessor.seg_pad_val = labels.pop()

    def infer(
        self,
        inputs: Tensor,
        facts: ImageFacts | None = None,
        num_tokens: int | None = None,
        metas: list[dict] | None = None,
        with_tokens: bool = False,
    ) -> tuple[Tensor, list[ImageTokens] | None]:
        """Return logits (B, K, H, W), of whole images or averaged over crops; see the base."""
        size, crops = tuple(inputs.shape[-2:]), self._crops(inputs)
        metas = metas or [dict(ori_shape=size, img_shape=size, pad_shape=size)] * len(inputs)
        if len(crops) == 1:
            features, tokens = self.extract(inputs, facts, num_tokens, with_tokens)
            return self.decode_head.predict(features, metas, self.test_cfg), tokens
        logits = inputs.new_zeros(len(inputs), self.out_channels, *size)
        passes = inputs.new_zeros(1, 1, *size)
        for crop in crops:
            part = inputs[crop]
            part_facts = facts and facts.change_images(lambda image, crop=crop: image[crop])
            features = self.extract_feat(part, part_facts, num_tokens)
            part_metas = [meta | {"img_shape": part.shape[-2:]} for meta in metas]
            logits[crop] += self.decode_head.predict(features, part_metas, self.test_cfg)
            passes[crop] += 1
        return logits / passes, None

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Return logits (B, K, H, W) of images with meta fields only."""
        return self.infer(inputs, metas=batch_img_metas)[0]

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Compute the losses of the heads for images (B, C, H, W)."""
        features, losses = self.extract_with_region_loss(inputs, data_samples)
        losses |= self._decode_head_forward_train(features, data_samples)
        if self.with_auxiliary_head:
            losses |= self._auxiliary_head_forward_train(features, data_samples)
        return losses

    def check_one_pass(self, inputs: Tensor) -> None:
        """Raise ConfigError if ``test_cfg`` splits the images into crops."""
        if len(self._crops(inputs)) > 1:
            height, width = inputs.shape[-2:]
            raise ConfigError(
                "the model splits a window into crops, so there are no tokens of the window",
                expected="test_cfg.mode='whole', or windows of its crop_size",
                found=f"crops of {tuple(self.test_cfg['crop_size'])} pixels, images of "
                f"{height} x {width}",
                remedy="choose the model's crop size with --window",
            )

    def _scores(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return logits.softmax(dim=1) if logits.shape[1] > 1 else logits.sigmoid()

    def _answer(
        self, result: Tensor, are_scores: bool, data_samples: Sequence[SegDataSample] | None
    ) -> list[SegDataSample]:
        if are_scores:
            # postprocess_result expects logits; these restore the scores.
            multiclass = result.shape[1] > 1
            result = result.clamp_min(1e-12).log() if multiclass else torch.logit(result, eps=1e-6)
        return self.postprocess_result(result, data_samples)

    def _forward(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None
    ) -> Tensor:
        """Return the head's output, for ``mode='tensor'``."""
        return self.decode_head(self.extract_feat(inputs, self.image_facts(inputs, data_samples)))

    def _crops(self, inputs: Tensor) -> list[tuple]:
        """Return the indexes of the crops in ``test_cfg``, a single one for whole images."""
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
