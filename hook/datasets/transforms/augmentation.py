"""Albumentations on n-band images with masks.

Source: https://albumentations.ai (2.0.8).
"""

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmcv.transforms.base import BaseTransform

from hook.datasets.transforms.packing import ground_resolution
from hook.errors import ConfigError
from hook.registry import TRANSFORMS

# Transforms that move pixels without changing the ground resolution.
_KEEP_SCALE = frozenset(
    "D4 HorizontalFlip VerticalFlip Transpose RandomRotate90 SquareSymmetry Rotate CenterCrop Crop "
    "RandomCrop CropNonEmptyMaskIfExists Pad PadIfNeeded GridDropout CoarseDropout".split()
)


def _albumentations() -> Any:
    # Otherwise its import checks a package index for updates.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


@TRANSFORMS.register_module()
class Albumentations(BaseTransform):
    """Run an Albumentations pipeline on the image and all its masks.

    Geometric transforms support any band count and uint8, uint16, int16 and float32; most
    photometric ones require uint8 or float32, so put :class:`ScaleBands` before them, and note that
    they clip float images to [0, 1]. Pixels filled by a transform (the corners of a rotation)
    become invalid and get the ignore index. ``geo`` is dropped if pixels may have moved, and the
    ground resolution is set to unknown (NaN) if it may have changed.

    Random numbers come from NumPy's global state, see :mod:`hook.datasets.seeding`.

    Args:
        transforms: One dict per transform, ``type`` and its arguments, such as
            ``dict(type='HorizontalFlip', p=0.5)``; ``OneOf``, ``SomeOf`` and ``Sequential`` have
            nested ``transforms``.
        ignore_index: Label of filled pixels; default from the dataset meta, else 255.

    Raises:
        ConfigError: If a transform or argument is unknown, or does not support the image.

    Modified keys: ``img``, ``gt_seg_map``, ``valid``, ``img_shape``.
    """

    def __init__(
        self, transforms: Sequence[Mapping[str, Any]], ignore_index: int | None = None
    ) -> None:
        self.cfg = [dict(transform) for transform in transforms]
        self.ignore_index = ignore_index
        library = _albumentations()
        self.compose = library.Compose([self._build(library, cfg) for cfg in self.cfg])
        moving = {type(t) for t in _leaves(self.compose) if isinstance(t, library.DualTransform)}
        self.moves_pixels = bool(moving)
        self.keeps_scale = {kind.__name__ for kind in moving} <= _KEEP_SCALE

    def _build(self, library: Any, cfg: Mapping[str, Any]) -> Any:
        arguments = dict(cfg)
        name = arguments.pop("type", None)
        cls = getattr(library, name, None) if isinstance(name, str) else None
        if not (
            isinstance(cls, type) and issubclass(cls, library.BasicTransform | library.BaseCompose)
        ):
            raise ConfigError(
                f"hook.Albumentations: unknown transform {name!r}",
                expected="the name of a class of albumentations, such as 'HorizontalFlip'",
                found=dict(cfg),
                remedy="correct 'type'",
            )
        if "transforms" in arguments:
            arguments["transforms"] = [
                self._build(library, nested) for nested in arguments["transforms"]
            ]
        accepted = inspect.signature(cls.__init__).parameters
        unknown = [key for key in arguments if key not in accepted]
        if unknown:
            # Albumentations only warns and ignores the argument.
            raise ConfigError(
                f"hook.Albumentations: {name} has no argument {', '.join(unknown)}",
                expected=", ".join(key for key in accepted if key != "self"),
                found=", ".join(arguments),
                remedy="correct the arguments",
            )
        try:
            return cls(**arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"hook.Albumentations: invalid arguments of {name}",
                expected=", ".join(key for key in accepted if key != "self"),
                found=f"{arguments} ({' '.join(str(error).split())})",
                remedy="correct the arguments",
            ) from error

    def transform(self, results: dict) -> dict:
        """Augment one sample."""
        image = results["img"]
        squeezed = image.ndim == 2
        if squeezed:
            image = image[:, :, None]
        labels = results.get("gt_seg_map")
        valid = results.get("valid")
        known_valid = valid is not None
        if not known_valid:
            valid = np.ones(image.shape[:2], dtype=np.uint8)
        masks = [np.ascontiguousarray(valid)]
        if labels is not None:
            # OpenCV cannot warp 32-bit integers; float32 represents labels up to 2**24 exactly.
            as_float = labels.dtype.itemsize > 2
            masks.append(np.ascontiguousarray(labels.astype(np.float32) if as_float else labels))
        self.compose.set_random_seed(int(np.random.randint(2**31)))  # noqa: NPY002 - see class
        image = np.ascontiguousarray(image)
        try:
            output = self.compose(image=image, masks=masks)
        except Exception as error:
            # Transforms raise TypeError, KeyError, cv2.error, ...
            raise self._unsupported_image(image, error) from error
        image, valid = output["image"], np.asarray(output["masks"][0])
        if image.ndim == 2:
            image = image[:, :, None]
        results["img"] = image[:, :, 0] if squeezed else image
        results["img_shape"] = image.shape[:2]
        invalid = valid != 1
        if labels is not None:
            ignore = self.ignore_index
            if ignore is None:
                ignore = (results.get("dataset_meta") or {}).get("ignore_index", 255)
            labels = np.asarray(output["masks"][1]).astype(labels.dtype)
            labels[invalid] = ignore
            results["gt_seg_map"] = labels
        if known_valid or invalid.any():
            results["valid"] = (~invalid).astype(np.uint8)
            fields = results.setdefault("seg_fields", [])
            if "valid" not in fields:
                fields.append("valid")
        if self.moves_pixels:
            results["resolution"] = ground_resolution(results) if self.keeps_scale else math.nan
            results.pop("geo", None)
        return results

    def _unsupported_image(self, image: np.ndarray, error: Exception) -> ConfigError:
        failing = []
        for transform in _leaves(self.compose):
            probability, transform.p = transform.p, 1.0
            try:
                transform(image=image)
            except Exception:
                failing.append(type(transform).__name__)
            finally:
                transform.p = probability
        names = failing or [cfg["type"] for cfg in self.cfg]
        return ConfigError(
            f"hook.Albumentations: {', '.join(names)} does not support this image",
            expected=" ".join(str(error).split()) or type(error).__name__,
            found=f"{image.shape[0]} x {image.shape[1]} pixels, {image.shape[2]} bands, "
            f"{image.dtype}",
            remedy="remove it, or put hook.ScaleBands before it if the data type is unsupported",
        )

    def __repr__(self) -> str:
        return f"Albumentations(transforms={self.cfg})"


def _leaves(compose: Any) -> list:
    composed = _albumentations().BaseCompose
    leaves = []
    for transform in compose.transforms:
        leaves.extend(_leaves(transform) if isinstance(transform, composed) else [transform])
    return leaves
