"""Windows of a scene as arrays, with what is valid in them."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from hook.errors import SceneError
from hook.scenes.grid import Window

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)
"""What rasterio raises when GDAL fails; it lets some of GDAL's own errors through."""


class WindowData(NamedTuple):
    """One window as the model gets it.

    ``image`` (C, size, size) and ``valid`` (size, size) are extended beyond the scene by
    reflection, so that a model sees plausible surroundings. ``covered`` (h, w) is the part inside
    the scene.
    """

    image: np.ndarray
    """Native values, native dtype."""
    valid: np.ndarray
    """True where all bands are valid: what a model may trust."""
    covered: np.ndarray
    """True where at least one band is valid: what gets a class in the map."""


class SceneReader:
    """Reads windows of a raster that GDAL opens (GeoTIFF, COG, JPEG 2000, VRT, ``/vsi...``).

    A band is invalid at a pixel where it equals its nodata value, where an alpha or mask band of
    the file says so, and where it is NaN.

    Args:
        path: File name or any other dataset name GDAL understands.
        indexes: 1-based bands, in the order wanted; all but alpha bands if None.
        nodata: Replaces the nodata value of the file: a number, ``"nan"``, or None to keep it.

    Raises:
        SceneError: The file is missing or unreadable, or a band does not exist.
    """

    def __init__(
        self,
        path: str | Path,
        indexes: Sequence[int] | None = None,
        nodata: float | str | None = None,
    ) -> None:
        self.path = str(path)
        self._nodata_override = _parse_nodata(nodata)
        try:
            with warnings.catch_warnings():
                # Told below in our words, with the file's name.
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._source = rasterio.open(self.path)
        except GDAL_ERRORS as error:
            raise SceneError(
                f"{self.path}: cannot be opened",
                expected="a raster that GDAL reads, such as a GeoTIFF",
                found=_reason(error),
                remedy="check the path and that the file is complete",
            ) from error
        try:
            self._describe(indexes)
        except BaseException:
            self.close()
            raise

    def _describe(self, indexes: Sequence[int] | None) -> None:
        source = self._source
        self.height, self.width = source.height, source.width
        self.crs, self.transform = source.crs, source.transform
        if indexes is None:
            indexes = [
                index
                for index, interpretation in zip(source.indexes, source.colorinterp, strict=True)
                if interpretation != ColorInterp.alpha
            ]
        self.indexes = [int(index) for index in indexes]
        if not self.indexes or not all(1 <= index <= source.count for index in self.indexes):
            raise SceneError(
                f"{self.path}: bands that the file does not have",
                expected=f"1-based indexes from 1 to {source.count}",
                found=self.indexes,
                remedy="name the bands of this file",
            )
        self.dtype = np.result_type(*(source.dtypes[index - 1] for index in self.indexes))
        if self.dtype.kind == "c":
            raise SceneError(
                f"{self.path}: complex values",
                expected="integer or real bands",
                found=self.dtype,
                remedy="convert the file to amplitude first",
            )
        self._nodata = [self._band_nodata(index) for index in self.indexes]
        self._read_masks = any(
            MaskFlags.per_dataset in source.mask_flag_enums[index - 1] for index in self.indexes
        )
        # Pixel-interleaved files cache the blocks of all bands, whichever are asked for.
        self.row_bytes = self.width * source.count * self.dtype.itemsize
        self.block_height = max(height for height, _ in source.block_shapes)
        if self.crs is None or self.transform.is_identity:
            warnings.warn(
                f"{self.path}: not georeferenced; what is made from it will not be either",
                stacklevel=4,
            )

    def _band_nodata(self, index: int) -> float | None:
        nodata = self._nodata_override
        if nodata is None:
            nodata = self._source.nodatavals[index - 1]
        dtype = np.dtype(self._source.dtypes[index - 1])
        if nodata is None or math.isnan(nodata):  # NaN is invalid in any case
            return None
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if nodata != int(nodata) or not limits.min <= nodata <= limits.max:
                if self._nodata_override is not None:
                    warnings.warn(
                        f"{self.path}: nodata {nodata:g} does not fit {dtype}; no pixel equals it",
                        stacklevel=5,
                    )
                return None
        return nodata

    def read(self, window: Window, size: int) -> WindowData:
        """Read a window and extend it to ``size x size`` pixels.

        Args:
            window: Part of the scene, at most ``size`` pixels high and wide.
            size: Side of the arrays returned.

        Raises:
            SceneError: A block of the file is damaged or missing.
        """
        area = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        try:
            # A JPEG block that ends early is a mere warning to libjpeg, and grey to the model.
            with rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING=True):
                image = self._source.read(self.indexes, window=area, out_dtype=self.dtype)
                masks = np.ones(image.shape, bool)
                if self._read_masks:
                    masks = self._source.read_masks(self.indexes, window=area) > 0
        except GDAL_ERRORS as error:
            raise SceneError(
                f"{self.path}: cannot be read at row {window.row_off}, column {window.col_off}",
                expected=f"{window.height} x {window.width} readable pixels",
                found=_reason(error),
                remedy="the file is damaged or incomplete: fetch or write it again",
            ) from error
        for band, mask, nodata in zip(image, masks, self._nodata, strict=True):
            if nodata is not None:
                mask &= band != np.asarray(nodata).astype(band.dtype)
            if band.dtype.kind == "f":
                mask &= ~np.isnan(band)
        valid, covered = masks.all(axis=0), masks.any(axis=0)
        below, beside = size - window.height, size - window.width
        if below or beside:
            # "symmetric" repeats, so that it works from a scene of one pixel on.
            image = np.pad(image, ((0, 0), (0, below), (0, beside)), mode="symmetric")
            valid = np.pad(valid, ((0, below), (0, beside)), mode="symmetric")
        return WindowData(image, valid, covered)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> "SceneReader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _parse_nodata(nodata: float | str | None) -> float | None:
    if nodata is None:
        return None
    try:
        return float(nodata)
    except (TypeError, ValueError):
        raise SceneError("nodata value", expected='a number or "nan"', found=repr(nodata)) from None


def _reason(error: BaseException) -> str:
    """The message of GDAL, which rasterio keeps as the cause of its own."""
    return str(error.__cause__ or error)
