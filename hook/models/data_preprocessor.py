"""Batching and normalisation for any number of bands."""

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor as MMSegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import Tensor
from torchvision.transforms import v2

from hook.errors import ConfigError, DataError
from hook.registry import MODELS
from hook.structures import ClsDataSample


def _statistics(mean: Sequence[float] | None, std: Sequence[float] | None):
    """Return mean and std as (C, 1, 1) tensors, checked."""
    if mean is None and std is None:
        return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    if mean is None or std is None or len(mean) != len(std):
        raise ConfigError(
            "model.data_preprocessor: mean and std must have one value per band each",
            found=f"mean={mean}, std={std}",
            remedy="compute them with tools/dataset_tools/compute_statistics.py",
        )
    if min(std) <= 0:
        raise ConfigError(
            "model.data_preprocessor.std must be positive",
            found=f"std={list(std)}",
            remedy="leave a constant band out, or set its std to 1",
        )
    return (
        torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1),
        torch.tensor(std, dtype=torch.float32).view(-1, 1, 1),
    )


def _check_padding(section: str, size: object = None, size_divisor: object = None, **_) -> None:
    """Check options of padding, which mmseg uses with the first batch."""
    is_shape = isinstance(size, Sequence) and [type(side) for side in size] == [int, int]
    is_divisor = isinstance(size_divisor, int) and size_divisor > 0
    if (is_shape and size_divisor is None) or (is_divisor and size is None):
        return
    raise ConfigError(
        f"model.data_preprocessor{section}: size and size_divisor",
        expected="size=(height, width), or a positive size_divisor; the other is None",
        found=f"size={size}, size_divisor={size_divisor}",
        remedy="remove one of them",
    )


def _check_bands(image: Tensor, mean: Tensor) -> None:
    """Check the number of bands, which broadcasting could hide."""
    bands = image.shape[-3]  # of time series (T, C, H, W), too
    if mean.shape[0] not in (1, bands):
        raise ConfigError(
            "model.data_preprocessor: mean and std do not match the number of bands of the images",
            expected=f"{mean.shape[0]} bands",
            found=f"{bands} bands",
            remedy="choose the bands in the dataset's metainfo, or correct mean and std",
        )


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (B, C, H, W) without aliasing."""
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


@MODELS.register_module()
class SegDataPreProcessor(MMSegDataPreProcessor):
    """mmseg's preprocessor for any number of bands, in their order.

    Args:
        mean: Mean per band in model units.
        std: Standard deviation per band in model units.
        size: (height, width) to pad training images to; None pads to the largest of the batch.
        seg_pad_val: Label of the padding; None for the ``ignore_index`` of the decode head.
        mark_invalid: Pass validity to the tokenizer, which must support it (preset ``"fast"``):
            invalid are padding and pixels outside the samples' ``valid_mask``.
        **kwargs: Further options of mmseg's ``SegDataPreProcessor``.

    Raises:
        ConfigError: Mean and std do not match each other or the images, or an image would be padded
            to both a size and a divisor.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        seg_pad_val: int | None = None,
        mark_invalid: bool = False,
        **kwargs,
    ) -> None:
        # hook.TokenSegmentor knows the head, and sets the label.
        self.pads_ignored = seg_pad_val is None
        kwargs["seg_pad_val"] = 255 if seg_pad_val is None else seg_pad_val
        if size is None:
            kwargs.setdefault("size_divisor", 1)  # mmseg requires one of the two
        _check_padding("", size, **kwargs)
        if kwargs.get("test_cfg"):
            _check_padding(".test_cfg", **kwargs["test_cfg"])
        # MMEngine's check accepts one or three bands only.
        super().__init__(mean=None, std=None, size=size, **kwargs)
        mean, std = _statistics(mean, std)
        self._enable_normalize = True
        self.mark_invalid = mark_invalid
        self.register_buffer("mean", mean, False)
        self.register_buffer("std", std, False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise and stack a batch; see mmseg's ``SegDataPreProcessor``."""
        _check_bands(data["inputs"][0], self.mean)
        if not training and self.test_cfg and data.get("data_samples") is None:
            # mmseg writes the padding into the samples.
            data = data | {"data_samples": [SegDataSample() for _ in data["inputs"]]}
        return super().forward(data, training)


@MODELS.register_module()
class ClsDataPreProcessor(BaseDataPreprocessor):
    """Normalise and stack images; mixup, cutmix and several scales while training.

    Images without a valid pixel are left out of training, with a warning.

    Args:
        mean: Mean per band in model units.
        std: Standard deviation per band in model units.
        mixup: Alpha of mixup (Zhang et al., ICLR 2018); 0 for none.
        cutmix: Alpha of cutmix (Yun et al., ICCV 2019); 0 for none. With both, each batch uses
            one of them.
        num_classes: Number of classes; required for mixup and cutmix.
        scales: Factors of the images' sides, 1 among them: each training batch is resized
            (bilinear, antialiased) by one of them, drawn at random; a factor that is listed twice
            is drawn twice as often. Statistics of batch normalisation are those of the images' own
            size, see :class:`hook.models.image_model.ImageModel`. The tokenizer must accept any
            size. None: images keep their size.
        mark_invalid: Pass the samples' ``valid_mask`` to the tokenizer, which must support it
            (preset ``"fast"``).
        non_blocking: As in MMEngine's ``BaseDataPreprocessor``.

    Raises:
        ConfigError: Mean and std do not match each other or the images, ``num_classes`` is missing,
            a scale is not a positive number, or 1 is not a scale.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        num_classes: int | None = None,
        scales: Sequence[float] | None = None,
        mark_invalid: bool = False,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        self.mark_invalid = mark_invalid
        mean, std = _statistics(mean, std)
        self.register_buffer("mean", mean, False)
        self.register_buffer("std", std, False)
        if (mixup or cutmix) and num_classes is None:
            raise ConfigError(
                "model.data_preprocessor.num_classes is missing",
                expected="the number of classes, which mixup and cutmix need for soft labels",
                remedy="set num_classes in data_preprocessor, or leave mixup and cutmix out",
            )
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        mixers = [
            kind(alpha=float(alpha), num_classes=num_classes) for kind, alpha in kinds if alpha
        ]
        self.mix = v2.RandomChoice(mixers) if mixers else None
        if scales is not None and not (1 in scales and all(0 < one < math.inf for one in scales)):
            raise ConfigError(
                "model.data_preprocessor.scales",
                expected="a list of factors above 0, and 1 among them",
                found=scales,
                remedy="correct it, or leave it out for images as they are",
            )
        self.scales = scales
        self._warned = False

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise and stack a batch.

        Args:
            data: ``inputs``, a list of (C, H, W) images or a (B, C, H, W) batch, and
                ``data_samples``.
            training: Apply mixup or cutmix, and change the size.

        Returns:
            ``inputs`` (B, C, H, W) float32 and ``data_samples``.

        Raises:
            ConfigError: The images differ in size, or in bands from mean and std.
            DataError: No image of a training batch has a valid pixel.
        """
        if training and data.get("data_samples"):
            data = self._without_blank(data)
        data = self.cast_data(data)
        images, samples = data["inputs"], data.get("data_samples")
        _check_bands(images[0], self.mean)
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) > 1:
            raise ConfigError(
                "the images of a batch differ in size",
                found=sorted(sizes),
                remedy="resize or crop them in the pipeline",
            )
        inputs = images if isinstance(images, Tensor) else torch.stack(list(images))
        inputs = (inputs.float() - self.mean) / self.std
        if training and self.mix is not None:
            inputs = self._mix(inputs, samples)
        batch = {"inputs": inputs, "data_samples": samples}
        if training and self.scales:
            batch["inputs"] = self._resize(inputs, samples)
            batch["resized"] = batch["inputs"] is not inputs
        return batch

    def _without_blank(self, data: dict) -> dict:
        """Remove images without a valid pixel from a batch."""
        samples = data["data_samples"]
        kept = [k for k, sample in enumerate(samples) if not sample.get("blank", False)]
        if len(kept) == len(samples):
            return data
        name = next(s.get("img_path", "an image") for s in samples if s.get("blank", False))
        if not kept:
            raise DataError(
                f"{name}: no valid pixel in it nor in the rest of its batch",
                expected="images with data",
                remedy="remove such images from the split, or correct metainfo['nodata']",
            )
        if not self._warned:
            self._warned = True
            print_log(
                f"{name}: no valid pixel. Such images are left out of training.",
                "current",
                logging.WARNING,
            )
        inputs = data["inputs"]
        inputs = inputs[kept] if isinstance(inputs, Tensor) else [inputs[k] for k in kept]
        return data | {"inputs": inputs, "data_samples": [samples[k] for k in kept]}

    def _resize(self, inputs: Tensor, samples: Sequence[ClsDataSample] | None) -> Tensor:
        """Resize images by one of the scales: a pixel is valid if made of valid pixels only."""
        scale = self.scales[int(torch.randint(len(self.scales), ()))]
        size = tuple(max(round(side * scale), 1) for side in inputs.shape[-2:])
        if size == tuple(inputs.shape[-2:]):
            return inputs
        for sample in samples or ():
            if "valid_mask" in sample:
                valid = _resized(sample.valid_mask.data[None].float(), size)[0] > 1 - 1e-3
                del sample.valid_mask
                sample.valid_mask = PixelData(data=valid.to(torch.uint8))
            sample.set_metainfo(dict(img_shape=size))
            if sample.get("resolution"):
                sample.set_metainfo(dict(resolution=sample.resolution / scale))
        return _resized(inputs, size)

    def _mix(self, inputs: Tensor, samples: list[ClsDataSample]) -> Tensor:
        """Mix images, labels and validity: a pixel is valid if valid in all images mixed there."""
        labels = torch.tensor([int(s.gt_label) for s in samples], device=inputs.device)
        if not self.mark_invalid:
            inputs, scores = self.mix(inputs, labels)
        else:
            blank = torch.ones_like(inputs[:1, 0])
            valid = torch.stack(
                [(s.valid_mask.data.to(blank) if "valid_mask" in s else blank) for s in samples]
            )
            mixed, scores = self.mix(torch.cat([inputs, valid], dim=1), labels)
            inputs, valid = mixed[:, :-1], mixed[:, -1:] > 1 - 1e-3
            for sample, mask in zip(samples, valid, strict=True):
                sample.valid_mask = PixelData(data=mask.to(torch.uint8))
        for sample, score in zip(samples, scores, strict=True):
            sample.gt_score = score
        return inputs


@MODELS.register_module()
class CodecDataPreProcessor(ClsDataPreProcessor):
    """Normalise and stack images, and take reconstructions back to the units of the data.

    Images without a valid pixel are left out of training, with a warning.

    Args:
        mean: Mean per band in the units of the data set's samples.
        std: Standard deviation per band.
        value_range: Lowest and highest value of the data, in place of mean and std: images become
            [-1, 1], and reconstructions are clipped to the range.
        non_blocking: As in MMEngine's ``BaseDataPreprocessor``.

    Raises:
        ConfigError: Mean and std do not match each other or the images, or stand beside a range.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        value_range: tuple[float, float] | None = None,
        non_blocking: bool = False,
    ) -> None:
        if value_range is not None:
            low, high = value_range
            if mean is not None or std is not None or low >= high:
                raise ConfigError(
                    "model.data_preprocessor.value_range",
                    expected="the lowest and the highest value, without mean and std",
                    found=f"value_range={value_range}, mean={mean}, std={std}",
                    remedy="set either value_range, or mean and std",
                )
            mean, std = [(low + high) / 2], [(high - low) / 2]
        super().__init__(mean, std, non_blocking=non_blocking)
        self.value_range = value_range

    def restore(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) in the units of the data."""
        images = images.float() * self.std + self.mean
        return images if self.value_range is None else images.clamp(*self.value_range)
