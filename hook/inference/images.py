"""Read images as a model's datasets do, and compare their values with its training data."""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from rasterio.windows import Window
from torch import nn

from hook.arguments import check_bands, short_repr
from hook.engine.configs import config_errors
from hook.engine.models import get_num_bands, is_segmentation
from hook.errors import ConfigError, DataError
from hook.geo.arrays import is_array, is_data_array, raster_file
from hook.geo.band_reader import BandReader
from hook.geo.bands import resolve_bands, value_range
from hook.geo.raster import (
    alpha_bands,
    finite,
    open_raster,
    parse_nodata,
    warn_unused_georeference,
)
from hook.inference.models import find_key

# Loading transforms; samples are loaded already.
_LOADING = ("LoadImageFromFile", "LoadAnnotations", "LoadBands")
_MAX_SHIFT = 8.0  # of the mean from that of training, in standard deviations of training
_MIN_SIZE = 0.02  # of the largest value, relative to the values of training


def read_sample(
    path: Any,
    model: nn.Module,
    bidx: Sequence[int | str] | None = None,
    option: str | None = None,
) -> dict[str, Any]:
    """Read an image as the model's datasets do.

    Args:
        path: Any raster that GDAL opens: GeoTIFF, PNG, JPEG; or an array, see
            :func:`hook.geo.arrays.raster_file`.
        model: A loaded model.
        bidx: Bands in the model's order; None for those of its ``dataset_meta``.
        option: Name of the user's option for ``bidx``, for the errors.

    Returns:
        Sample for a pipeline: ``img`` (H, W, C) native values, ``valid`` (H, W) uint8, sizes, and
        ``geo`` if the file has a CRS or a transform.

    Raises:
        DataError: The file is missing or unreadable, or lacks a band.
    """
    if is_array(path):
        with raster_file(path) as file:
            return read_sample(file, model, bidx, option)
    meta = model.dataset_meta
    bands = bidx or meta.get("bands")
    with open_raster(path) as source:
        indexes = resolve_bands(source, bands, option)
        nodata = parse_nodata(meta.get("nodata"))
        masked_by = alpha_bands(source) if bands is None else None
        reader = BandReader(source, indexes, nodata, meta, masked_by=masked_by)
        image, valid = reader.read(Window(0, 0, source.width, source.height))
        valid = valid.all(axis=0)
        crs, transform = source.crs, source.transform
        warn_unused_georeference(source, path)
    wanted = get_num_bands(model)
    if wanted is not None and len(image) != wanted:
        raise DataError(
            f"image {path} has a different number of bands than the model",
            expected=f"{wanted} bands",
            found=f"{len(image)} bands",
            remedy=f"select them in the model's order with {option}"
            if option
            else "use a file of the model's bands in its order",
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


class ImageValues(NamedTuple):
    """An image that was read or checked."""

    name: str
    """Name in messages."""
    values: np.ndarray
    """(C, H, W) native values in the model's band order."""
    valid: np.ndarray
    """(H, W) bool."""
    sample: dict[str, Any] | None
    """Of :func:`read_sample`; None for an array."""


def read_image(
    model: nn.Module,
    image: Any,
    valid: Any = None,
    bidx: Sequence[int | str] | None = None,
    what: str = "image",
) -> ImageValues:
    """Read an image, or check an array, and warn if it is far from the model's training data.

    Args:
        model: A loaded model.
        image: A file, a DataArray, or native values (C, H, W) in the model's band order.
        valid: (H, W), nonzero where an array's pixels are valid.
        bidx: Names or 1-based numbers of the bands of a file or DataArray in the model's order;
            None for those of its ``dataset_meta``.
        what: Kind of image, for messages.

    Raises:
        DataError: It cannot be read, does not fit the model, or has no valid pixel.
        ConfigError: ``valid`` was passed with a file or DataArray, or ``bidx`` with an array.
    """
    name, sample = f"the {what}", None
    if isinstance(image, str | os.PathLike) or is_data_array(image):
        if valid is not None:
            raise ConfigError(
                "valid is for NumPy arrays only",
                found="a DataArray" if is_data_array(image) else f"the file {image}",
                remedy="omit valid: the nodata value is used",
            )
        if not is_data_array(image):
            name = f"{what} {image}"
        bidx = None if bidx is None else check_bands(bidx)
        sample = read_sample(image, model, bidx, "bidx (--bidx)")
        image, valid = np.ascontiguousarray(sample["img"].transpose(2, 0, 1)), sample["valid"]
        if not valid.any():
            raise DataError(
                f"{name} has no valid pixel",
                expected="an image with data",
                found="nodata, NaN or infinity in each pixel",
                remedy="use a different image, or correct its nodata value",
            )
    elif bidx is not None:
        raise ConfigError(
            "bidx is for files and DataArrays only",
            found="a NumPy array",
            remedy="pass the model's bands in its order: image[[3, 2, 1]]",
        )
    values = np.ascontiguousarray(check_values(model, image, name))
    valid = check_validity(values, valid, name)
    check = ValueCheck(model)
    check.add(name, value_range(values, valid))
    check.warn(stacklevel=4)
    return ImageValues(name, values, valid, sample)


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


def check_validity(values: np.ndarray, valid: Any, name: str) -> np.ndarray:
    """Return the validity of an image as (H, W) bool.

    Args:
        values: (C, H, W), the image.
        valid: (H, W), nonzero where pixels are valid; None: everywhere. Pixels with NaN or infinity
            are not.
        name: Name of the image in messages.

    Raises:
        DataError: It has a wrong shape, is not numeric, or has no valid pixel.
    """
    found = np.ones(values.shape[1:], bool) if valid is None else np.asarray(valid)
    numbers = found.dtype.kind in "biuf"
    if found.shape != values.shape[1:] or not numbers or not found.any():
        what = int(found.astype(bool).sum()) if numbers else found.dtype
        raise DataError(
            f"{name}: validity of its pixels (valid)",
            expected=f"shape {values.shape[1:]} with a valid pixel",
            found=f"shape {found.shape} with {what}",
            remedy="pass a validity of the image's height and width, True where pixels are valid",
        )
    found = (found != 0) & finite(values).all(axis=0)
    if not found.any():
        raise DataError(
            f"{name} has no valid pixel",
            expected="finite values",
            found="NaN or infinity in each pixel",
            remedy="pass an image with data",
        )
    return found


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


class ValueCheck:
    """Compares the values of images with the mean and standard deviation of a model's training.

    An image is far from the training data if most of its bands are: by their mean, or because all
    values are very small, as 0 to 1 is for a model of 8-bit images. Dark and bright images, and
    those with clouds, are not.

    Args:
        model: A loaded model. Without statistics in its preprocessor nothing is compared.

    Attributes:
        blank: Names of images without a valid pixel.
    """

    def __init__(self, model: nn.Module) -> None:
        preprocessor = model.data_preprocessor
        normalises = getattr(preprocessor, "_enable_normalize", hasattr(preprocessor, "mean"))
        self._mean = self._std = None
        self.blank: list[str] = []
        self._far: list[tuple[str, np.ndarray]] = []
        self._checked = 0
        if not normalises:
            return
        mean, std = (
            getattr(preprocessor, name).detach().cpu().double().numpy().ravel()
            for name in ("mean", "std")
        )
        if mean.any() or (std != 1).any():
            meta = model.dataset_meta
            scale, offset = (
                np.asarray(value if meta.get(key) is None else meta[key], np.float64)
                for key, value in (("scale", 1), ("offset", 0))
            )
            self._mean, self._std = (mean - offset) / scale, std / np.abs(scale)

    def add(self, name: object, ranges: np.ndarray) -> None:
        """Add the :func:`hook.geo.bands.value_range` of an image."""
        self._checked += 1
        seen = ranges[0] > 0
        if not seen.any():
            self.blank.append(str(name))
        if self._mean is None or not seen.any() or self._mean.size not in (1, len(seen)):
            return
        mean, std = (np.broadcast_to(v, len(seen))[seen] for v in (self._mean, self._std))
        count, total, low, high = ranges[:, seen]
        shift = np.abs(total / count - mean) / std
        training = np.abs(mean) + 2 * std
        eight_bit = (mean > 8) & (training < 384)
        far = (shift > _MAX_SHIFT) | (eight_bit & (shift > 3) & (high > 510))
        # A dark 8-bit image of integers is not one scaled to 0 to 1.
        small = np.maximum(np.abs(low), np.abs(high)) < _MIN_SIZE * training
        far |= small & ~(eight_bit & (total == np.rint(total)) & (low >= 0))
        if 2 * far.sum() >= far.size:
            self._far.append((str(name), ranges[:, seen]))

    def warn(self, stacklevel: int = 3) -> None:
        """Warn once of all images that are far from the training data."""
        if not self._far:
            return
        name, (count, total, low, high) = self._far[0]
        more = f" ({len(self._far)} of {self._checked} images)" if len(self._far) > 1 else ""
        warnings.warn(
            f"{name}{more}: values from {low.min():.4g} to {high.max():.4g} (mean "
            f"{total.sum() / count.sum():.4g}), but the model was trained on values of mean "
            f"{self._mean.mean():.4g} and standard deviation {self._std.mean():.4g}; convert them "
            "to the units of its training data",
            stacklevel=stacklevel,
        )
