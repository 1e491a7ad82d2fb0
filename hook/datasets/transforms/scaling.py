"""From native values to model units inside a pipeline."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms.base import BaseTransform

from hook.geo.bands import to_model_units
from hook.registry import TRANSFORMS


def sample_units(
    results: dict,
    scale: float | Sequence[float] | None,
    offset: float | Sequence[float] | None,
    mean: float | Sequence[float] | None,
) -> dict:
    """Gather scale, offset and mean: a transform's own arguments, else the dataset meta.

    A sample whose values are in model units already (``results['in_model_units']``) is not scaled
    again.

    Args:
        results: Sample dictionary, with ``dataset_meta`` where the dataset has one.
        scale: Argument of the transform, or None.
        offset: Argument of the transform, or None.
        mean: Argument of the transform, or None.

    Returns:
        dict for :func:`hook.geo.bands.to_model_units`.
    """
    meta = results.get("dataset_meta") or {}
    units = {"mean": meta.get("mean") if mean is None else mean}
    if not results.get("in_model_units", False):
        units["scale"] = meta.get("scale") if scale is None else scale
        units["offset"] = meta.get("offset") if offset is None else offset
    return units


def image_in_model_units(results: dict, units: dict) -> np.ndarray:
    """Convert the image of a sample.

    Args:
        results: Sample dictionary with ``img`` (H, W, C) or (H, W) and, where known, ``valid``
            (H, W). Only pixels whose ``valid`` is exactly 1 count as valid: mmseg's
            ``RandomRotate`` fills the new pixels of every segmentation field with 255.
        units: From :func:`sample_units`.

    Returns:
        (C, H, W) float32, pixels that are not valid filled with the mean.
    """
    image = results["img"]
    if image.ndim == 2:
        image = image[:, :, None]
    image = image.transpose(2, 0, 1)
    valid = results.get("valid")
    if valid is not None:
        valid = valid == 1
    elif image.dtype.kind == "f":
        valid = ~np.isnan(image).any(axis=0)
    return to_model_units(image, valid, units)


@TRANSFORMS.register_module()
class ScaleBands(BaseTransform):
    """Bring ``img`` into model units (float32) and fill its invalid pixels with the mean.

    Put it before transforms that mix neighbouring pixels (resize, rotate, blur), so that no nodata
    value leaks into valid pixels. Without it the packing transforms scale at the end.

    Args:
        scale: Number, or one per band; default ``scale`` of the dataset meta, else 1.
        offset: Number, or one per band; default ``offset`` of the dataset meta, else 0.
        mean: Fill of invalid pixels in model units; default ``mean`` of the dataset meta, else 0.

    Modified keys: ``img`` (H, W, C) float32. Added key: ``in_model_units``.
    """

    def __init__(
        self,
        scale: float | Sequence[float] | None = None,
        offset: float | Sequence[float] | None = None,
        mean: float | Sequence[float] | None = None,
    ) -> None:
        self.scale, self.offset, self.mean = scale, offset, mean

    def transform(self, results: dict) -> dict:
        """Scale one sample."""
        units = sample_units(results, self.scale, self.offset, self.mean)
        image = image_in_model_units(results, units)
        results["img"] = np.ascontiguousarray(image.transpose(1, 2, 0))
        results["in_model_units"] = True
        return results

    def __repr__(self) -> str:
        return f"ScaleBands(scale={self.scale}, offset={self.offset}, mean={self.mean})"
