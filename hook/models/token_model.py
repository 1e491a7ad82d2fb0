"""What models with a tokenizer share: facts of the images go in, tokens come out."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from hook.engine.tta import mean_over_views
from hook.errors import ConfigError
from hook.structures import ImageTokens
from hook.tokenizers import ImageFacts


class TokenModel(nn.Module):
    """One door for what is known of images, and one for their tokens.

    In go the validity (``valid_mask`` of the data samples, where the preprocessor has
    ``mark_invalid=True``), the ground resolution (``resolution`` of their metainfo, where the
    tokenizer was made with one) and the number of tokens (``num_tokens`` of their metainfo), or
    the same as arguments. Out come samples with ``tokens``, an
    :class:`hook.structures.ImageTokens`: those that the prediction was made from.

    A prediction that averages over views (``tta``) has the tokens of the image as it is. One that
    slides over several crops has none: each crop has its own.

    Raises:
        ConfigError: The preprocessor has ``mark_invalid=True`` and the tokenizer takes no validity.
    """

    @property
    def marks_invalid(self) -> bool:
        """Whether the tokenizer is told which pixels are valid."""
        return getattr(self.data_preprocessor, "mark_invalid", False)

    def check_tokenizer(self) -> None:
        """Refuse a tokenizer that cannot take what the preprocessor hands it."""
        tokenizer = getattr(self.backbone, "tokenizer", None)
        if self.marks_invalid and not getattr(tokenizer, "takes_valid", False):
            raise ConfigError(
                "data_preprocessor.mark_invalid=True needs a tokenizer that takes the validity "
                "of pixels",
                expected="hook.HookTokenizer with preset 'fast'",
                found=f"{type(tokenizer or self.backbone).__name__} "
                f"(preset {getattr(tokenizer, 'preset', None)!r})",
                remedy="set backbone.tokenizer.preset='fast', or leave mark_invalid out",
            )

    def image_facts(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> ImageFacts:
        """Collect what data samples say of their images.

        Args:
            inputs: (B, C, H, W) images as the preprocessor gives them, padded at the bottom and
                the right; padding is not valid.
            data_samples: Their samples; None says nothing.
        """
        valid = _valid(inputs, data_samples) if self.marks_invalid else None
        metres = [sample.get("resolution") or float("nan") for sample in data_samples or ()]
        resolution = None
        if not all(map(math.isnan, metres)):
            resolution = torch.tensor(metres, device=inputs.device)
        return ImageFacts(valid, resolution)

    def extract(
        self,
        inputs: Tensor,
        facts: ImageFacts | None = None,
        num_tokens: int | None = None,
        with_tokens: bool = False,
    ) -> tuple[Tensor | tuple[Tensor, ...], list[ImageTokens] | None]:
        """Give the features that the head takes and, where asked for, the tokens of each image.

        Args:
            inputs: (B, C, H, W) images as the preprocessor gives them.
            facts: See :meth:`image_facts`.
            num_tokens: Number of tokens; None takes what the model would.
            with_tokens: Give the tokens too; None of a backbone without.
        """
        tokens = None
        if not hasattr(self.backbone, "forward_with_tokens"):
            features = self.backbone(inputs)
        elif with_tokens:
            features, tokens = self.backbone.forward_with_tokens(inputs, num_tokens, facts)
        else:
            features = self.backbone(inputs, num_tokens, facts)
        neck = getattr(self, "neck", None)
        return (features if neck is None else neck(features)), tokens

    def extract_feat(
        self, inputs: Tensor, facts: ImageFacts | None = None, num_tokens: int | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Give the features that the head takes; see :meth:`extract`."""
        return self.extract(inputs, facts, num_tokens)[0]

    @abstractmethod
    def infer(
        self,
        inputs: Tensor,
        facts: ImageFacts | None = None,
        num_tokens: int | None = None,
        metas: list[dict] | None = None,
        with_tokens: bool = False,
    ) -> tuple[Tensor, list[ImageTokens] | None]:
        """Give the logits of images and, where asked for, the tokens that they were made from.

        Args:
            inputs: As in :meth:`extract`, like the next two.
            facts: What else is known of the images.
            num_tokens: Number of tokens.
            metas: Meta fields of each image.
            with_tokens: Give the tokens too; None of images that went through in several crops.
        """

    def tokenize(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        num_tokens: int | None = None,
    ) -> list[ImageTokens]:
        """Give the tokens of images without an answer of the head; see :meth:`predict`.

        Raises:
            ConfigError: The images go through the model in parts.
        """
        self.check_one_pass(inputs)
        facts = self.image_facts(inputs, data_samples)
        tokens = self.backbone.forward_with_tokens(inputs, num_tokens, facts)[1]
        return complete_tokens(tokens, inputs, data_samples)

    def predict(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        num_tokens: int | None = None,
        tta: str | None = None,
    ) -> list[BaseDataElement]:
        """Predict images, and give the tokens that the predictions were made from.

        Args:
            inputs: (B, C, H, W) images as the preprocessor gives them.
            data_samples: Their samples, which come back with the predictions.
            num_tokens: Number of tokens; None takes the samples' ``num_tokens``, else what the
                model would.
            tta: Average over views of the images, ``"flip"`` or ``"d4"``
                (:func:`hook.engine.tta.views`); None takes ``tta`` of ``test_cfg``.

        Returns:
            Samples with ``pred_sem_seg`` and ``seg_logits``, or ``pred_label`` and ``pred_score``;
            and with ``tokens`` where the backbone has some and the image went through in one pass.
        """
        facts = self.image_facts(inputs, data_samples)
        num_tokens = asked_tokens(data_samples) if num_tokens is None else num_tokens
        metas = data_samples and [sample.metainfo for sample in data_samples]
        found: list[list[ImageTokens] | None] = []

        def infer(view: Tensor, known: ImageFacts) -> Tensor:
            logits, tokens = self.infer(view, known, num_tokens, metas, with_tokens=not found)
            found.append(tokens)  # the first are those of the image as it is
            return logits

        tta = tta or (self.test_cfg or {}).get("tta")
        if tta:
            result = mean_over_views(lambda *view: self._scores(infer(*view)), inputs, tta, facts)
        else:
            result = infer(inputs, facts)
        samples = self._answer(result, bool(tta), data_samples)
        if found[0] is not None:
            tokens = complete_tokens(found[0], inputs, data_samples)
            for sample, one in zip(samples, tokens, strict=True):
                sample.tokens = one
        return samples

    def check_one_pass(self, inputs: Tensor) -> None:
        """Refuse images that go through the model in parts, each with tokens of its own."""


def asked_tokens(data_samples: Sequence[BaseDataElement] | None) -> int | None:
    """Read the number of tokens that the samples of a batch ask for.

    Raises:
        ConfigError: They ask for different numbers.
    """
    asked = {sample.get("num_tokens") for sample in data_samples or ()}
    if len(asked) > 1:
        raise ConfigError(
            "the images of a batch ask for different numbers of tokens",
            found=sorted(asked, key=str),
            remedy="put images with equal num_tokens into one batch",
        )
    return next(iter(asked), None)


def complete_tokens(
    tokens: list[ImageTokens], inputs: Tensor, data_samples: Sequence[BaseDataElement] | None
) -> list[ImageTokens]:
    """Add where the images have data, and their sizes without padding."""
    valid = None
    if any("valid_mask" in sample for sample in data_samples or ()):
        valid = _valid(inputs, data_samples)
    for row, one in enumerate(tokens):
        one.valid = None if valid is None else valid[row]
        one.size = _size(data_samples[row] if data_samples else None, inputs)
    return tokens


def _size(sample: BaseDataElement | None, inputs: Tensor) -> tuple[int, int]:
    """Give an image's size before the preprocessor padded it."""
    padding = (0, 0, 0, 0)
    if sample is not None:
        padding = sample.get("img_padding_size", sample.get("padding_size", padding))
    return inputs.shape[-2] - padding[3], inputs.shape[-1] - padding[1]


def _valid(inputs: Tensor, data_samples: Sequence[BaseDataElement] | None) -> Tensor:
    """Give the (B, H, W) validity of padded images."""
    valid = torch.zeros(len(inputs), *inputs.shape[-2:], dtype=torch.bool, device=inputs.device)
    for row, mask in enumerate(valid):
        sample = data_samples[row] if data_samples else None
        height, width = _size(sample, inputs)
        known = sample is not None and "valid_mask" in sample
        mask[:height, :width] = sample.valid_mask.data[0].to(mask.device) > 0 if known else True
    return valid
