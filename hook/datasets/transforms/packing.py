"""Pack samples as tensors and data elements, the last step of a pipeline."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms.base import BaseTransform
from mmengine.structures import BaseDataElement, PixelData
from pyproj import CRS
from rasterio import Affine

from hook.datasets.transforms.scaling import image_in_model_units, sample_units
from hook.errors import ConfigError
from hook.geo.dates import to_days
from hook.geo.measure import metres_per_pixel
from hook.registry import TRANSFORMS
from hook.structures import ClsDataSample

META_KEYS = (
    "img_path",
    "seg_map_path",
    "ori_shape",
    "img_shape",
    "pad_shape",
    "scale_factor",
    "flip",
    "flip_direction",
    "reduce_zero_label",
    "sample_idx",
    "geo",
    "change",
)


_parse_crs = functools.lru_cache(maxsize=64)(CRS.from_wkt)  # the chips of a data set share CRSs


def ground_resolution(results: dict) -> float | None:
    """Return the ground resolution of a sample in metres per pixel, None if unknown.

    From ``resolution`` if set by a transform, else ``geo``, else the dataset meta; divided by the
    ``scale_factor`` of the pipeline.
    """
    geo, metres = results.get("geo"), results.get("resolution")
    if metres is None and geo is not None and geo.get("crs"):
        grid = Affine(*geo["transform"])
        metres = metres_per_pixel(geo["height"], geo["width"], grid, _parse_crs(geo["crs"]))
    if metres is None:
        metres = (results.get("dataset_meta") or {}).get("resolution")
    if not isinstance(metres, int | float):
        return None
    return metres / math.sqrt(np.prod(results.get("scale_factor", 1.0)))


class _PackSample(BaseTransform):
    """Base class of the packing transforms."""

    def __init__(
        self,
        meta_keys: Sequence[str] = META_KEYS,
        scale: float | Sequence[float] | None = None,
        offset: float | Sequence[float] | None = None,
        mean: float | Sequence[float] | None = None,
    ) -> None:
        self.meta_keys = tuple(meta_keys)
        self.scale, self.offset, self.mean = scale, offset, mean

    def _inputs(self, results: dict) -> torch.Tensor:
        height, width = results["img"].shape[:2]
        for key in ("valid", "gt_seg_map"):
            field = results.get(key)
            if field is not None and field.shape[:2] != (height, width):
                raise ConfigError(
                    f"{results.get('img_path', 'sample')}: image and {key} differ in size",
                    expected=f"{key} of {height} x {width} pixels, like the image",
                    found=f"{field.shape[0]} x {field.shape[1]}",
                    remedy="use transforms that change all results['seg_fields']: "
                    "hook.Albumentations or mmseg's; mmcv's own Resize, Pad and CenterCrop do not",
                )
        units = sample_units(results, self.scale, self.offset, self.mean)
        image = image_in_model_units(results, units)
        return torch.from_numpy(np.ascontiguousarray(image))  # C H W, or T C H W

    def _meta(self, results: dict) -> dict:
        meta = {key: results[key] for key in self.meta_keys if key in results}
        meta["img_shape"] = tuple(results["img"].shape[:2])
        if "ori_shape" in results:
            meta["ori_shape"] = tuple(results["ori_shape"][:2])
        meta["pad_shape"] = tuple(results.get("pad_shape", meta["img_shape"])[:2])
        meta["resolution"] = ground_resolution(results)
        for key in ("dates", "wavelengths"):
            values = results.get(key, (results.get("dataset_meta") or {}).get(key))
            if values is not None and key == "dates":
                values = to_days(values, f"{results.get('img_path', 'a sample')}: dates")
            meta |= {} if values is None else {key: values}
        return meta

    @staticmethod
    def _pack_valid(results: dict, sample: BaseDataElement) -> None:
        if results.get("valid") is not None:
            valid = (results["valid"] == 1).astype(np.uint8)
            valid = np.moveaxis(np.atleast_3d(valid), 2, 0)  # T H W
            sample.valid_mask = PixelData(data=torch.from_numpy(np.ascontiguousarray(valid)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(meta_keys={self.meta_keys})"


@TRANSFORMS.register_module()
class PackSegSample(_PackSample):
    """Pack a sample for segmentation.

    Returns a dict of ``inputs``, float32 (C, H, W), or (T, C, H, W) of a time series, in model
    units with invalid pixels filled by the mean, and ``data_samples``, a
    :class:`mmseg.structures.SegDataSample` with ``gt_sem_seg`` (1, H, W) int64 if labelled,
    ``valid_mask`` (1, H, W), or (T, H, W), uint8 if known, and in its metainfo ``resolution`` in
    metres per pixel or None and, if known, ``dates`` and ``wavelengths``.

    Args:
        meta_keys: Keys of the sample to copy to the metainfo, if present.
        scale: Number, or one per band; default ``scale`` of the dataset meta, else 1.
        offset: Number, or one per band; default ``offset`` of the dataset meta, else 0.
        mean: Fill of invalid pixels in model units; default ``mean`` of the dataset meta, else 0.
    """

    def transform(self, results: dict) -> dict:
        """Pack one sample."""
        from mmseg.structures import SegDataSample

        inputs = self._inputs(results)
        sample = SegDataSample(metainfo=self._meta(results))
        if results.get("gt_seg_map") is not None:
            labels = np.ascontiguousarray(results["gt_seg_map"]).astype(np.int64)
            sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
        self._pack_valid(results, sample)
        return {"inputs": inputs, "data_samples": sample}


@TRANSFORMS.register_module()
class PackClsSample(_PackSample):
    """Pack a sample for scene classification.

    Like :class:`PackSegSample`, with the same arguments, but ``data_samples`` is a
    :class:`hook.structures.ClsDataSample` with ``gt_label`` if labelled, and ``blank`` in its
    metainfo if no pixel is valid.
    """

    def transform(self, results: dict) -> dict:
        """Pack one sample."""
        inputs = self._inputs(results)
        sample = ClsDataSample(metainfo=self._meta(results))
        if results.get("gt_label") is not None:
            sample.gt_label = int(results["gt_label"])
        self._pack_valid(results, sample)
        if "valid_mask" in sample and not sample.valid_mask.data.any():
            sample.set_metainfo(dict(blank=True))
        return {"inputs": inputs, "data_samples": sample}
