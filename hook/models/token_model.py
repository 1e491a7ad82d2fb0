"""Base class of models with a tokenizer: image facts as inputs, tokens as outputs."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from hook.arguments import short_repr
from hook.engine.tta import mean_over_views
from hook.errors import ConfigError, DataError
from hook.models.parts import check_facts
from hook.registry import MODELS
from hook.structures import ImageTokens
from hook.tokenizers import ImageFacts


class TokenModel(nn.Module):
    """Base class of models with a tokenizer.

    Inputs, from data samples or as arguments, are the validity (``valid_mask``, with
    ``mark_invalid=True`` of the preprocessor), the ground resolution (``resolution`` of the
    metainfo, if the tokenizer has one), the dates in days of a time series (``dates``, NaN where
    an image is missing) and the wavelengths of the bands in nanometres (``wavelengths``), for
    tokenizers that use them, and the number of tokens (``num_tokens`` of the metainfo).
    Returned samples have ``tokens``, an :class:`hook.structures.ImageTokens`: those used for the
    prediction. With test-time augmentation (``tta``) they are those of the unchanged image; a
    prediction from several crops has none.
    """

    @property
    def marks_invalid(self) -> bool:
        """Whether validity is passed to the tokenizer."""
        return getattr(self.data_preprocessor, "mark_invalid", False)

    def check_tokenizer(self) -> None:
        """Raise ConfigError if ``mark_invalid=True`` is not supported by the tokenizer."""
        tokenizer = getattr(self.backbone, "tokenizer", None)
        if self.marks_invalid and not getattr(tokenizer, "takes_valid", False):
            raise ConfigError(
                "data_preprocessor.mark_invalid=True needs a tokenizer that supports validity",
                expected="hook.HookTokenizer with preset 'fast' or 'objects'",
                found=f"{type(tokenizer or self.backbone).__name__} "
                f"(preset {getattr(tokenizer, 'preset', None)!r})",
                remedy="set backbone.tokenizer.preset='fast', or leave mark_invalid out",
            )

    def build_region_loss(self, cfg: dict | None) -> None:
        """Build the loss of a tokenizer's regions; raise ConfigError if it has none."""
        self.region_loss = None if cfg is None else MODELS.build(cfg)
        if cfg is not None and not getattr(self.backbone, "has_regions", False):
            tokenizer = getattr(self.backbone, "tokenizer", self.backbone)
            raise ConfigError(
                "model.region_loss needs a tokenizer with regions",
                expected="hook.TokenViT with a hook.HookTokenizer of preset 'objects'",
                found=f"{type(tokenizer).__name__} (preset {getattr(tokenizer, 'preset', None)!r})",
                remedy="leave region_loss out, or change the tokenizer",
            )

    def image_facts(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None
    ) -> ImageFacts:
        """Collect the facts about images from their data samples, if any.

        Args:
            inputs: (B, C, H, W) preprocessed images, or (B, T, C, H, W) series; their padding is
                invalid.
            data_samples: Their samples.

        Raises:
            DataError: A sample lacks a fact that the tokenizer needs.
        """
        tokenizer = getattr(self.backbone, "tokenizer", None)
        return collect_facts(tokenizer, inputs, data_samples, self.marks_invalid)

    def extract(
        self,
        inputs: Tensor,
        facts: ImageFacts | None = None,
        num_tokens: int | None = None,
        with_tokens: bool = False,
    ) -> tuple[Tensor | tuple[Tensor, ...], list[ImageTokens] | None]:
        """Return the inputs of the head and, with ``with_tokens``, the tokens of each image.

        Args:
            inputs: (B, C, H, W) preprocessed images.
            facts: See :meth:`image_facts`.
            num_tokens: Number of tokens; None uses the model's.
            with_tokens: Return the tokens too; they are None for a backbone without tokens.
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
        """Return the inputs of the head; see :meth:`extract`."""
        return self.extract(inputs, facts, num_tokens)[0]

    def extract_with_region_loss(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement]
    ) -> tuple[Tensor | tuple[Tensor, ...], dict[str, Tensor]]:
        """Return the inputs of the head in training, and the loss of the regions, if any."""
        facts = self.image_facts(inputs, data_samples)
        if self.region_loss is None:
            return self.extract(inputs, facts)[0], {}
        features, tokens = self.extract(inputs, facts, with_tokens=True)
        labels = {}
        if "gt_sem_seg" in data_samples[0]:
            labels["labels"] = torch.cat([sample.gt_sem_seg.data for sample in data_samples])
            labels["ignore_index"] = self.decode_head.ignore_index
        loss = self.region_loss(self.backbone.tokenizer, tokens, **labels)
        return features, {"loss_regions": loss}

    @abstractmethod
    def infer(
        self,
        inputs: Tensor,
        facts: ImageFacts | None = None,
        num_tokens: int | None = None,
        metas: list[dict] | None = None,
        with_tokens: bool = False,
    ) -> tuple[Tensor, list[ImageTokens] | None]:
        """Return the logits of images with meta fields ``metas`` and, with ``with_tokens``, tokens.

        Arguments are as in :meth:`extract`. The tokens are None if several crops were used.
        """

    def tokenize(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        num_tokens: int | None = None,
    ) -> list[ImageTokens]:
        """Return the tokens of images without running the head; see :meth:`predict`.

        Raises:
            ConfigError: The model splits the images into crops.
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
        """Predict images, and return the tokens used for the predictions.

        Args:
            inputs: (B, C, H, W) preprocessed images.
            data_samples: Their samples, returned with the predictions.
            num_tokens: Number of tokens; None uses the samples' ``num_tokens``, else the model's.
            tta: Average over views of the images, ``"flip"`` or ``"d4"``
                (:func:`hook.engine.tta.views`); None uses ``tta`` of ``test_cfg``.

        Returns:
            Samples with ``pred_sem_seg`` and ``seg_logits``, or ``pred_label`` and ``pred_score``;
            and with ``tokens`` if the backbone has tokens and images are not split into crops.
        """
        facts = self.image_facts(inputs, data_samples)
        num_tokens = requested_tokens(data_samples) if num_tokens is None else num_tokens
        metas = data_samples and [sample.metainfo for sample in data_samples]
        all_tokens: list[list[ImageTokens] | None] = []

        def infer(view: Tensor, facts: ImageFacts) -> Tensor:
            logits, tokens = self.infer(view, facts, num_tokens, metas, with_tokens=not all_tokens)
            all_tokens.append(tokens)  # the first view is the unchanged image
            return logits

        tta = tta or (self.test_cfg or {}).get("tta")
        if tta:
            result = mean_over_views(lambda *view: self._scores(infer(*view)), inputs, tta, facts)
        else:
            result = infer(inputs, facts)
        samples = self._answer(result, bool(tta), data_samples)
        if all_tokens[0] is not None:
            tokens = complete_tokens(all_tokens[0], inputs, data_samples)
            for sample, image_tokens in zip(samples, tokens, strict=True):
                sample.tokens = image_tokens
        return samples

    def check_one_pass(self, inputs: Tensor) -> None:
        """Raise ConfigError if the model splits the images into crops."""


def collect_facts(
    tokenizer: nn.Module | None,
    inputs: Tensor,
    data_samples: Sequence[BaseDataElement] | None = None,
    marks_invalid: bool = True,
) -> ImageFacts:
    """Collect the facts about images that a tokenizer takes; see :meth:`TokenModel.image_facts`."""
    valid = valid_pixels(inputs, data_samples) if marks_invalid else None
    if valid is not None and valid.all():
        valid = None  # the tokenizer's faster path
    metres = [sample.get("resolution") or float("nan") for sample in data_samples or ()]
    resolution = None
    if not all(map(math.isnan, metres)):
        resolution = torch.tensor(metres, device=inputs.device)
    counts = dict(dates=inputs.shape[1] if inputs.ndim == 5 else 1)
    counts["wavelengths"] = inputs.shape[-3]
    lists = {
        name: _stacked(data_samples, name, count, inputs.device)
        for name, count in counts.items()
        if getattr(tokenizer, f"takes_{name}", False)
    }
    facts = ImageFacts(valid, resolution, **lists)
    check_facts(tokenizer, inputs, facts, data_samples)
    return facts


def _stacked(
    samples: Sequence[BaseDataElement] | None, name: str, count: int, device: torch.device
) -> Tensor | None:
    """Return ``count`` numbers of each sample, (B, count) float64; None if no sample has any."""
    lists = [sample.get(name) for sample in samples or ()]
    absent = [one is None for one in lists]
    if all(absent):
        return None
    if any(absent):
        lacking = samples[absent.index(True)].get("img_path", "a sample")
        raise DataError(
            f"{lacking}: without {name}, which others of its batch have",
            expected=f"{name} of all samples, or of none",
            remedy=f"add {name} to the metainfo of its data set",
        )
    rows = []
    for one in lists:
        try:
            rows.append(np.asarray(one))
        except (TypeError, ValueError):  # lists of other lengths
            rows.append(np.empty(0))
        if rows[-1].dtype.kind not in "iuf" or rows[-1].shape != (count,):
            raise DataError(
                f"{name} of the samples do not fit the images",
                expected=f"{count} numbers",
                found=short_repr(one),
                remedy=f"correct {name} in the metainfo of the samples",
            )
    return torch.tensor(np.stack(rows), dtype=torch.float64, device=device)


def requested_tokens(data_samples: Sequence[BaseDataElement] | None) -> int | None:
    """Return ``num_tokens`` of a batch; raise ConfigError if its samples differ."""
    requested = {sample.get("num_tokens") for sample in data_samples or ()}
    if len(requested) > 1:
        raise ConfigError(
            "the images of a batch have different num_tokens",
            found=sorted(requested, key=str),
            remedy="put images with equal num_tokens into one batch",
        )
    return next(iter(requested), None)


def complete_tokens(
    tokens: list[ImageTokens], inputs: Tensor, data_samples: Sequence[BaseDataElement] | None
) -> list[ImageTokens]:
    """Add validity, and image sizes without padding."""
    valid = None
    if any("valid_mask" in sample for sample in data_samples or ()):
        valid = valid_pixels(inputs, data_samples)
        valid = valid.any(dim=1) if valid.ndim == 4 else valid
    for row, image_tokens in enumerate(tokens):
        image_tokens.valid = None if valid is None else valid[row]
        image_tokens.size = _size(data_samples[row] if data_samples else None, inputs)
    return tokens


def _size(sample: BaseDataElement | None, inputs: Tensor) -> tuple[int, int]:
    """Return an image's size without padding."""
    padding = (0, 0, 0, 0)
    if sample is not None:
        padding = sample.get("img_padding_size", sample.get("padding_size", padding))
    return inputs.shape[-2] - padding[3], inputs.shape[-1] - padding[1]


def valid_pixels(inputs: Tensor, data_samples: Sequence[BaseDataElement] | None) -> Tensor:
    """Return the (B, H, W) validity of padded images, (B, T, H, W) of series."""
    valid = inputs.new_zeros(*inputs.shape[:-3], *inputs.shape[-2:], dtype=torch.bool)
    for row, mask in enumerate(valid):
        sample = data_samples[row] if data_samples else None
        height, width = _size(sample, inputs)
        known = sample is not None and "valid_mask" in sample
        # (1, H, W) of an image, or of all dates of a series; (T, H, W) of each.
        data = sample.valid_mask.data.to(mask.device) > 0 if known else True
        mask[..., :height, :width] = data[0] if known and mask.ndim == 2 else data
    return valid
