"""Rasters: one way to open them, one translation of GDAL's errors, one rule of what is valid."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from hook.errors import ConfigError, DataError, HookError

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".img", ".jp2")
GDAL_ERRORS = (RasterioError, CPLE_BaseError, CRSError, OSError)
"""What rasterio raises when GDAL fails; it lets some of GDAL's own errors through."""

Dataset = rasterio.DatasetReader | WarpedVRT


# ------------------------------------------------------------------------------------ opening
@contextmanager
def quiet() -> Iterator[None]:
    """Silence what rasterio says of a missing georeference and of alpha beside a nodata value.

    HOOK reports the one in its words, and heeds both in the other. For short calls only: filters
    of warnings are shared by threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.simplefilter("ignore", NodataShadowWarning)
        yield


def quiet_open(path: Any, mode: str = "r", **profile: Any) -> Any:
    """Call :func:`rasterio.open` without its warning; for writing, where errors stay GDAL's.

    Args:
        path: The file.
        mode: ``"r"``, ``"r+"`` or ``"w"``.
        **profile: Of a new file.
    """
    with quiet():
        return rasterio.open(path, mode, **profile)


def open_dataset(path: Any, error: type[HookError] = DataError) -> rasterio.DatasetReader:
    """Open a raster that stays open; read it inside :func:`reading`.

    Args:
        path: File, or any other dataset name that GDAL understands.
        error: Class of the error.

    Raises:
        DataError: GDAL cannot open it. Or another ``error``.
    """
    with reading(path, error):
        return quiet_open(path)


@contextmanager
def open_raster(path: Any, error: type[HookError] = DataError) -> Iterator[rasterio.DatasetReader]:
    """Open a raster for a ``with`` block, in which errors of GDAL become errors of the file.

    Args:
        path: File, or any other dataset name that GDAL understands.
        error: Class of the error.

    Yields:
        The open dataset.

    Raises:
        DataError: GDAL fails. Or another ``error``.
    """
    with reading(path, error), open_dataset(path, error) as source:
        yield source


def warped(source: Dataset, crs: Any, *, nodata: float | None = None, **options: Any) -> WarpedVRT:
    """View a raster on another grid, where pixels that it does not cover hold no data.

    Args:
        source: Open raster.
        crs: CRS of the view.
        nodata: Replaces the nodata value of the raster; NaN for none.
        **options: ``transform``, ``width``, ``height``, ``resampling`` and others of
            :class:`rasterio.vrt.WarpedVRT`.
    """
    nodata = source.nodata if nodata is None else nodata
    if nodata is not None and np.dtype(source.dtypes[0]).kind != "f":
        nodata = nodata_of(source, 1, nodata)
    alphas = alpha_bands(source)
    marks = dict(src_nodata=nodata, nodata=nodata, add_alpha=nodata is None and not alphas)
    if alphas and nodata is not None:
        # Else GDAL heeds the value only where all bands have it, and alpha bands do not.
        marks["UNIFIED_SRC_NODATA"] = "NO"
    return WarpedVRT(source, crs=crs, **marks, **options)


# ------------------------------------------------------------------------------------ errors
@contextmanager
def reading(path: Any, error: type[HookError] = DataError) -> Iterator[None]:
    """Translate errors of GDAL into errors of the file being read.

    Args:
        path: The file, for the message.
        error: Class of the error.

    Raises:
        DataError: GDAL fails. Or another ``error``.
    """
    try:
        yield
    except GDAL_ERRORS as problem:
        raise unreadable(path, problem, error=error) from problem


def unreadable(
    path: Any,
    problem: BaseException,
    expected: str = "a complete raster that GDAL reads, such as a GeoTIFF",
    what: str = "",
    error: type[HookError] = DataError,
) -> HookError:
    """Make the error for a file that a library cannot read.

    Args:
        path: The file.
        problem: What the library raised.
        expected: What the file should be.
        what: What it holds, such as ``"labels"``.
        error: Class of the error.
    """
    return error(
        f"{path}: {what} cannot be read" if what else f"{path} cannot be read",
        expected=expected,
        found=reason(problem),
        remedy="check the path and that the file is complete; fetch or write it again, or leave it "
        "out",
    )


def reason(problem: BaseException) -> str:
    """Give the message of a library on one line; rasterio keeps GDAL's as the cause of its own."""
    text = " ".join(str(problem.__cause__ or problem).split()) or type(problem).__name__
    missing = isinstance(problem, FileNotFoundError) or "no such file" in text.casefold()
    return "no such file" if missing else text


def check_complete(source: rasterio.DatasetReader) -> None:
    """Check that a file is not cut off, for a TIFF without reading its pixels.

    Args:
        source: Open raster.

    Raises:
        DataError: If a block of the full resolution lies beyond the end of the file.
        RasterioIOError: If the last pixel of another format cannot be read.
    """
    path = Path(source.name)
    if source.driver != "GTiff" or not path.is_file():
        source.read(source.count, window=Window(source.width - 1, source.height - 1, 1, 1))
        return
    size = path.stat().st_size
    rows, cols = source.block_shapes[0]
    pixelwise = source.interleaving is not None and source.interleaving.name == "pixel"
    end = 0
    for band in (1,) if pixelwise else source.indexes:
        for y in range(math.ceil(source.height / rows)):
            for x in range(math.ceil(source.width / cols)):
                start = source.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band)
                length = source.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=band)
                if start is not None and length is not None:
                    end = max(end, int(start) + int(length))
    if end > size:
        raise DataError(
            f"{path} is cut off",
            expected=f"at least {end} bytes",
            found=f"{size} bytes",
            remedy="copy or download the file again",
        )


# ------------------------------------------------------------------------------------ validity
def alpha_bands(source: Dataset) -> list[int]:
    """Give the 1-based indexes of the bands that say how opaque the others are."""
    return [k for k, kind in enumerate(source.colorinterp, 1) if kind == ColorInterp.alpha]


def parse_nodata(
    nodata: float | str | None,
    option: str = "metainfo['nodata']",
    error: type[HookError] = ConfigError,
) -> float | None:
    """Read a nodata value that replaces those of files.

    Args:
        nodata: A number, ``'nan'``, or None for the file's own.
        option: Where the user says it, for the error.
        error: Class of the error.

    Returns:
        The number (possibly NaN), or None.

    Raises:
        ConfigError: If it is anything else. Or another ``error``.
    """
    if nodata is None:
        return None
    try:
        return float(nodata)
    except (TypeError, ValueError):
        raise error(
            f"{option}={nodata!r}",
            expected="a number, 'nan', or None for the file's own nodata value",
            found=nodata,
            remedy=f"correct {option}",
        ) from None


def nodata_of(source: Dataset, index: int, nodata: float | None = None) -> float | None:
    """Give the value that means no data in a band.

    Args:
        source: Open raster.
        index: 1-based band.
        nodata: Replaces the file's own.

    Returns:
        The value; None where there is none, where the band's type cannot hold it, and for NaN,
        which is never valid anyway.
    """
    nodata = source.nodatavals[index - 1] if nodata is None else nodata
    if nodata is None or math.isnan(nodata):
        return None
    dtype = np.dtype(source.dtypes[index - 1])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not (limits.min <= nodata <= limits.max and nodata == int(nodata)):
            return None
    return nodata


class Validity:
    """Tells which pixels of bands hold data.

    A pixel holds none where it is NaN, where it has the band's nodata value, and where a mask or
    an alpha band of the file says so, wherever that band stands.

    Args:
        source: Open raster. What its header says is read now, once.
        indexes: 1-based bands that are read.
        nodata: Replaces the nodata value of the file; NaN for none.
    """

    def __init__(
        self, source: Dataset, indexes: Sequence[int], nodata: float | None = None
    ) -> None:
        self._source, self._indexes = source, list(indexes)
        flags = source.mask_flag_enums
        flags = [flags[index - 1] for index in self._indexes]
        self._masked = any(MaskFlags.per_dataset in each for each in flags)
        # GDAL takes an alpha band for the mask only where it is the second or the fourth, and
        # never beside a nodata value.
        heeded = all(MaskFlags.alpha in each for each in flags)
        self._alphas = [] if heeded else alpha_bands(source)
        values = (nodata_of(source, index, nodata) for index in self._indexes)
        self._nodata = [
            None if value is None else np.asarray(value).astype(source.dtypes[index - 1])
            for index, value in zip(self._indexes, values, strict=True)
        ]

    def read(self, values: np.ndarray, **options: Any) -> np.ndarray:
        """Tell it of pixels that were read.

        Args:
            values: (C, H, W) what was read.
            **options: ``window`` that was read, and ``out_shape`` (C, H, W) if it was resampled.

        Returns:
            (C, H, W) bool.
        """
        resampled = "out_shape" in options
        valid = np.ones(values.shape, bool)
        # Averages of pixels cannot be compared with a nodata value: GDAL's masks tell.
        if self._masked or resampled:
            with quiet() if self._alphas else nullcontext():
                valid = self._source.read_masks(self._indexes, **options) > 0
        if self._alphas:
            if resampled:
                options["out_shape"] = (len(self._alphas), *values.shape[1:])
            valid &= (self._source.read(self._alphas, **options) > 0).all(axis=0)
        for band, mask, nodata in zip(values, valid, self._nodata, strict=True):
            if nodata is not None and not resampled:
                mask &= band != nodata
            if band.dtype.kind == "f":
                mask &= ~np.isnan(band)
        return valid


def read_valid(
    source: Dataset,
    indexes: Sequence[int],
    image: np.ndarray,
    window: Window | None = None,
    nodata: float | None = None,
) -> np.ndarray:
    """Tell where all bands of a window hold data, see :class:`Validity`.

    Args:
        source: Open raster.
        indexes: 1-based bands that were read.
        image: (C, H, W) values of these bands in the window.
        window: The window; None for the whole raster.
        nodata: Replaces the nodata value of the file; NaN for none.

    Returns:
        (H, W) bool.
    """
    return Validity(source, indexes, nodata).read(image, window=window).all(axis=0)


def valid_values(image: np.ndarray, nodata: float | None) -> np.ndarray:
    """Tell where all bands hold a value, by the values alone.

    Args:
        image: (C, H, W) native values.
        nodata: Value that means no data (NaN always does); None for none.

    Returns:
        (H, W) bool.
    """
    valid = np.ones(image.shape[1:], dtype=bool)
    if image.dtype.kind == "f":
        valid &= ~np.isnan(image).any(axis=0)
    if nodata is not None and not np.isnan(nodata):
        valid &= (image != nodata).all(axis=0)
    return valid
