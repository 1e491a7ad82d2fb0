"""Read images as a model's datasets do."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from hook.arguments import short_repr
from hook.engine.configs import config_errors
from hook.engine.models import get_num_bands, is_segmentation
from hook.errors import ConfigError, DataError
from hook.geo.arrays import is_array, is_data_array, raster_file
from hook.geo.bands import resolve_bands
from hook.geo.raster import open_raster, parse_nodata, read_valid, unused_georeference
from hook.inference.models import find_key

# Loading transforms; samples are loaded already.
_LOADING = ("LoadImageFromFile", "LoadAnnotations", "LoadBands")


def read_sample(path: Any, model: nn.Module) -> dict[str, Any]:
    """Read an image as the model's datasets do.

    Args:
        path: Any raster that GDAL opens: GeoTIFF, PNG, JPEG; or an array, see
            :func:`hook.geo.arrays.raster_file`.
        model: A loaded model; the bands are those of its ``dataset_meta``.

    Returns:
        Sample for a pipeline: ``img`` (H, W, C) native values, ``valid`` (H, W) uint8, sizes, and
        ``geo`` if the file has a CRS or a transform.

    Raises:
        DataError: The file is missing or unreadable, or lacks a band.
    """
    if is_array(path):
        with raster_file(path) as file:
            return read_sample(file, model)
    meta = model.dataset_meta
    with open_raster(path) as source:
        indexes = resolve_bands(source, meta.get("bands"))
        image = source.read(indexes)
        valid = read_valid(source, indexes, image, nodata=parse_nodata(meta.get("nodata")))
        crs, transform = source.crs, source.transform
        if lost := unused_georeference(source):
            warnings.warn(
                f"{path}: located by {lost}, which its results lose; rectify it first (gdalwarp)",
                stacklevel=2,
            )
    wanted = get_num_bands(model)
    if wanted is not None and len(image) != wanted:
        raise DataError(
            f"image {path} has a different number of bands than the model",
            expected=f"{wanted} bands",
            found=f"{len(image)} bands",
            remedy="list the bands in metainfo['bands'] of the config",
        )
    sample = {
        "img": np.ascontiguousarray(image.transpose(1, 2, 0)),
        "valid": valid.astype(np.uint8),
        "seg_fields": ["valid"],
        "img_path": str(path),
        "img_shape": image.shape[1:],
        "ori_shape": image.shape[1:],
        "reduce_zero_label": False,
        "sample_idx": 0,
        "dataset_meta": meta,
    }
    if crs is not None or not transform.is_identity:  # such as a world file
        sample["geo"] = {
            "crs": crs and crs.to_wkt(),
            "transform": tuple(transform)[:6],
            "height": image.shape[1],
            "width": image.shape[2],
            "source": None,
            "window": None,
        }
    return sample


def check_values(model: nn.Module, image: Any, name: str) -> np.ndarray:
    """Return an image (C, H, W) of native values as an array.

    Raises:
        DataError: It is not a numeric array of this shape, or has a wrong number of bands.
    """
    try:
        values = np.asarray(image)
    except ValueError:  # lists of several lengths
        values = np.empty(0, object)
    bands = get_num_bands(model)
    shaped = values.ndim == 3 and 0 not in values.shape and bands in (None, len(values))
    if not shaped or values.dtype.kind not in "biuf":
        raise DataError(
            f"{name} does not fit the model",
            expected=f"a file, or an array ({bands or 'C'}, h, w) of numbers",
            found=f"shape {values.shape} of {values.dtype}" if values.size else short_repr(image),
            remedy="pass the model's bands in its order",
        )
    return values


def check_validity(values: np.ndarray, valid: Any, name: str, blank: bool = False) -> np.ndarray:
    """Return the validity of an image as (H, W) bool.

    Args:
        values: (C, H, W), the image.
        valid: (H, W), nonzero where pixels are valid; None: everywhere.
        name: Name of the image in messages.
        blank: Allow an image without valid pixels.

    Raises:
        DataError: It has a wrong shape, is not numeric, or has no valid pixel.
    """
    found = np.ones(values.shape[1:], bool) if valid is None else np.asarray(valid)
    numbers = found.dtype.kind in "biuf"
    if found.shape != values.shape[1:] or not numbers or not (blank or found.any()):
        what = int(found.astype(bool).sum()) if numbers else found.dtype
        raise DataError(
            f"{name}: validity of its pixels (valid)",
            expected=f"shape {values.shape[1:]} with a valid pixel",
            found=f"shape {found.shape} with {what}",
            remedy="pass a validity of the image's height and width, True where pixels are valid",
        )
    return found != 0


def refuse_validity(image: Any, valid: Any) -> None:
    """Refuse ``valid`` for an image with nodata of its own, a file or a DataArray.

    Raises:
        ConfigError: ``valid`` is not None.
    """
    if valid is not None:
        raise ConfigError(
            "valid is for NumPy arrays only",
            found="a DataArray" if is_data_array(image) else f"the file {image}",
            remedy="omit valid: the nodata value is used",
        )


def inference_pipeline(model: nn.Module) -> Callable[[dict], dict]:
    """Build the test pipeline of a model's config for samples of :func:`read_sample`."""
    from mmengine.dataset import Compose  # takes half a second

    steps = find_key(model.cfg.get("test_dataloader"), "pipeline")
    if not steps:
        steps = [
            dict(type="hook.PackSegSample" if is_segmentation(model) else "hook.PackClsSample")
        ]
    kept = [s for s in steps if str(s.get("type")).rpartition(".")[2] not in _LOADING]
    with config_errors("the test pipeline"):
        return Compose(kept)
