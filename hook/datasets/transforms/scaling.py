"""Conversion from native values to model units in a pipeline."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms.base import BaseTransform

from hook.geo.bands import to_model_units
from hook.geo.raster import finite
from hook.registry import TRANSFORMS


def sample_units(
    results: dict,
    scale: float | Sequence[float] | None,
    offset: float | Sequence[float] | None,
    mean: float | Sequence[float] | None,
) -> dict:
    """Return scale, offset and mean for :func:`hook.geo.bands.to_model_units`.

    Arguments that are None default to the dataset meta, or without one to the sample's own keys.
    Samples with ``in_model_units`` set are not scaled again.
    """
    meta = results.get("dataset_meta")
    if meta is None:
        # mmcv's resizing transforms add a "scale" of their own.
        meta = {} if "scale_factor" in results else results
    units = {"mean": meta.get("mean") if mean is None else mean}
    if not results.get("in_model_units", False):
        units["scale"] = meta.get("scale") if scale is None else scale
        units["offset"] = meta.get("offset") if offset is None else offset
    return units


def image_in_model_units(results: dict, units: dict) -> np.ndarray:
    """Convert the image of a sample to (C, H, W) float32, with the mean at invalid pixels.

    Of a time series, (T, C, H, W), whose ``img`` is (H, W, T * C) and ``valid`` (H, W, T).

    Args:
        results: Sample dictionary with ``img`` (H, W, C) or (H, W) and optionally ``valid`` (H, W).
            Only pixels with ``valid`` equal to 1 are valid: mmseg's ``RandomRotate`` fills new
            pixels of all segmentation fields with 255.
        units: From :func:`sample_units`.
    """
    image = results["img"]
    if image.ndim == 2:
        image = image[:, :, None]
    image = image.transpose(2, 0, 1)
    valid = results.get("valid")
    if valid is not None:
        valid = valid == 1
        if valid.ndim > 2:  # H W T
            valid = valid.transpose(2, 0, 1)
            image = image.reshape(len(valid), -1, *image.shape[1:])
    if image.dtype.kind == "f":
        known = finite(image).all(axis=-3)
        valid = known if valid is None else valid & known
    return to_model_units(image, valid, units)


@TRANSFORMS.register_module()
class ScaleBands(BaseTransform):
    """Convert ``img`` to model units (float32) and fill its invalid pixels with the mean.

    Put it before transforms that mix neighbouring pixels (resize, rotate, blur), so that nodata
    values do not leak into valid pixels. Without it, the packing transforms scale at the end.

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
        image = image.reshape(-1, *image.shape[-2:])  # T C H W -> T*C H W
        results["img"] = np.ascontiguousarray(image.transpose(1, 2, 0))
        results["in_model_units"] = True
        return results

    def __repr__(self) -> str:
        return f"ScaleBands(scale={self.scale}, offset={self.offset}, mean={self.mean})"
