"""Opening rasters, translating GDAL's errors, and validity masks."""

import math
import warnings
from collections.abc import Collection, Iterator, Sequence
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
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of pictures, which need no georeference."""
_LAST_BYTES = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
GDAL_ERRORS = (RasterioError, CPLE_BaseError, CRSError, OSError)
"""What rasterio raises when GDAL fails, including GDAL's own errors that it does not wrap."""

_FARTHEST = 1e12
"""Largest coordinate of a raster, in units of its CRS."""

Dataset = rasterio.DatasetReader | WarpedVRT


# ------------------------------------------------------------------------------------ opening
@contextmanager
def quiet() -> Iterator[None]:
    """Silence rasterio's warnings about a missing georeference and about alpha with nodata.

    HOOK reports the former itself and respects both alpha and nodata. For short calls only:
    warning filters are shared by threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.simplefilter("ignore", NodataShadowWarning)
        yield


def quiet_open(path: Any, mode: str = "r", **profile: Any) -> Any:
    """Call :func:`rasterio.open` without its warnings; errors are not translated."""
    with quiet():
        return rasterio.open(path, mode, **profile)


def open_dataset(path: Any, error: type[HookError] = DataError) -> rasterio.DatasetReader:
    """Open a file, or any dataset name GDAL accepts, to be read inside :func:`reading`.

    Raises:
        DataError: GDAL or PROJ cannot read its header, its values are complex, its transform has
            no inverse, or its coordinates are beyond any place; or ``error``.
    """
    from hook.geo.measure import horizontal_crs  # imports shapely, which takes a moment

    try:
        source = quiet_open(path)
        # GDAL reads parts of a header when they are first used, and PROJ refuses some of its CRSs.
        describe(source)
        horizontal_crs(source.crs)
    except MemoryError:
        raise
    except Exception as problem:  # rasterio parses tags without errors of its own
        raise unreadable(path, problem, error=error) from problem
    # GDAL loops for hours where it warps coordinates far beyond the domain of their projection.
    ends = [source.transform @ (x, y) for x in (0, source.width) for y in (0, source.height)]
    if source.transform.is_degenerate or not (np.abs(ends) < _FARTHEST).all():
        source.close()
        raise error(
            f"{path}: a transform without an inverse, or beyond any place",
            expected="finite coordinates, and pixels with an area",
            found=tuple(source.transform)[:6],
            remedy="correct it (rio edit-info --transform), or write the file again",
        )
    # Read as a real type, GDAL returns the real part without a word.
    found = next((dtype for dtype in source.dtypes if dtype.startswith("complex")), None)
    if found is not None:
        source.close()
        raise error(
            f"{path}: complex values",
            expected="bands of integers or real numbers",
            found=found,
            remedy="write their amplitude, numpy.abs(values), to a file and use that",
        )
    return source


@contextmanager
def open_raster(path: Any, error: type[HookError] = DataError) -> Iterator[rasterio.DatasetReader]:
    """Open a file, or any dataset name GDAL accepts, for a ``with`` block inside :func:`reading`.

    Raises:
        DataError: GDAL fails, or see :func:`open_dataset`; or ``error``.
    """
    with reading(path, error), open_dataset(path, error) as source:
        yield source


def warped(source: Dataset, crs: Any, *, nodata: float | None = None, **options: Any) -> WarpedVRT:
    """Warp a raster to a different grid; pixels outside it are nodata.

    Args:
        source: Open raster.
        crs: CRS of the result.
        nodata: Replaces the nodata value of the raster; NaN for none.
        **options: Of :class:`rasterio.vrt.WarpedVRT`, such as ``transform`` and ``resampling``.
    """
    nodata = source.nodata if nodata is None else nodata
    if nodata is not None and np.dtype(source.dtypes[0]).kind != "f":
        nodata = nodata_of(source, 1, nodata)
    alphas = alpha_bands(source)
    marks = dict(src_nodata=nodata, nodata=nodata, add_alpha=nodata is None and not alphas)
    if alphas and nodata is not None:
        # By default GDAL masks only pixels that have the value in all bands, alpha included.
        marks["UNIFIED_SRC_NODATA"] = "NO"
    return WarpedVRT(source, crs=crs, **marks, **options)


def can_warp(
    source: Dataset, indexes: Sequence[int], nodata: float | None, masked_by: Collection[int]
) -> bool:
    """Whether :func:`warped` knows the invalid pixels of bands.

    It does by one nodata value of all bands, by a mask, or by alpha bands that are no data.

    Args:
        source: Open raster.
        indexes: 1-based bands.
        nodata: Replaces the nodata value of the file.
        masked_by: 1-based alpha bands that mask.
    """
    values = {str(source.nodatavals[index - 1]) for index in indexes}  # NaN equals NaN
    if nodata is not None:
        values = {str(nodata)}
    has_mask = any(
        MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        for flags in source.mask_flag_enums
    )
    masks_only = set(masked_by) == set(alpha_bands(source)) - set(indexes)
    return masks_only and (values == {"None"} or (len(values) == 1 and not has_mask))


# ------------------------------------------------------------------------------------ errors
@contextmanager
def reading(path: Any, error: type[HookError] = DataError) -> Iterator[None]:
    """Translate errors of GDAL into errors of the file being read.

    Raises:
        DataError: GDAL fails; or ``error``.
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
    """Return the error for a file that a library cannot read.

    Args:
        path: The file.
        problem: Exception of the library.
        expected: Expected content.
        what: Content of the file, such as ``"labels"``.
        error: Class of the error.
    """
    return error(
        f"{path}: {what} cannot be read" if what else f"{path} cannot be read",
        expected=expected,
        found=reason(problem),
        remedy="check the path and that the file is complete; fetch or write it again, or omit it",
    )


def reason(problem: BaseException) -> str:
    """Return the message of a library on one line; GDAL's is the cause of rasterio's."""
    text = " ".join(str(problem.__cause__ or problem).split()) or type(problem).__name__
    missing = isinstance(problem, FileNotFoundError) or "no such file" in text.casefold()
    return "no such file" if missing else text


def unused_georeference(source: Dataset) -> str:
    """Name the georeference of a raster without an affine transform, which HOOK does not use.

    Returns:
        Ground control points, RPCs or geolocation arrays (GDAL's raster data model); empty if the
        raster has a transform or none of these.
    """
    if not source.transform.is_identity:
        return ""
    points, _ = source.gcps
    found = [f"{len(points)} ground control points"] if points else []
    found += ["RPCs"] if source.rpcs else []
    found += ["geolocation arrays"] if source.tags(ns="GEOLOCATION") else []
    return " and ".join(found)


def warn_unused_georeference(source: Dataset, path: Any, stacklevel: int = 3) -> None:
    """Warn of a georeference that the results of a raster lose, see above."""
    if lost := unused_georeference(source):
        warnings.warn(
            f"{path}: located by {lost}, which its results lose; rectify it first (gdalwarp)",
            stacklevel=stacklevel,
        )


def describe(source: Dataset) -> dict[str, str]:
    """Return what a header says about how pixels are read and where they lie, for comparisons."""
    points, crs = source.gcps
    points = [(point.row, point.col, point.x, point.y, point.z) for point in points]
    return {
        "grid": repr([source.shape, tuple(source.transform), source.crs and source.crs.to_wkt()]),
        "control points": repr([points, crs, source.rpcs and source.rpcs.to_dict()]),
        "bands": repr([source.dtypes, source.descriptions, source.colorinterp]),
        "values": repr([source.nodatavals, source.scales, source.offsets]),
        "masks": repr(source.mask_flag_enums),
    }


def check_complete(source: rasterio.DatasetReader) -> None:
    """Check that a file is not truncated, for a TIFF, PNG or JPEG without reading its pixels.

    Raises:
        DataError: A block of the full resolution is beyond the end of the file.
        RasterioIOError: The last pixel of a file in a different format cannot be read.
    """
    path = Path(source.name)
    size = path.stat().st_size if path.is_file() else None
    if source.driver in _LAST_BYTES and size is not None:
        with path.open("rb") as file:
            file.seek(max(size - 64, 0))
            if _LAST_BYTES[source.driver] in file.read():
                return
    if source.driver != "GTiff" or size is None:
        # By default GDAL fills what a truncated JPEG lacks.
        with rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING="YES"):
            source.read(source.count, window=Window(source.width - 1, source.height - 1, 1, 1))
        return
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
    """Return the 1-based indexes of the alpha bands."""
    return [k for k, kind in enumerate(source.colorinterp, 1) if kind == ColorInterp.alpha]


def parse_nodata(
    nodata: float | str | None,
    option: str = "metainfo['nodata']",
    error: type[HookError] = ConfigError,
) -> float | None:
    """Parse a nodata value that replaces those of files.

    Args:
        nodata: A number, ``'nan'``, or None for the file's own.
        option: Name of the option, for the error.
        error: Class of the error.

    Returns:
        The number (possibly NaN), or None.

    Raises:
        ConfigError: It is anything else; or ``error``.
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
    """Return the nodata value of a band.

    Args:
        source: Open raster.
        index: 1-based band.
        nodata: Replaces the file's own.

    Returns:
        The value; None if there is none, if the band's type cannot hold it, and for NaN, which is
        always invalid.
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


def nodata_of_copy(
    source: Dataset,
    indexes: Sequence[int],
    nodata: float | None = None,
    own_first: bool = False,
) -> float | None:
    """Return the value that marks invalid pixels in a copy of bands.

    Args:
        source: Open raster.
        indexes: 1-based bands.
        nodata: Replaces the nodata value of the file.
        own_first: It does so only in a file without one.

    Returns:
        The nodata value; 0 for integers without one that a mask or an alpha band masks; else None.
    """
    dtype = np.dtype(source.dtypes[indexes[0] - 1])
    for given in (None, nodata) if own_first else (nodata,):
        for index in indexes:
            value = source.nodatavals[index - 1] if given is None else given
            if value is not None and math.isnan(value) and dtype.kind == "f":
                return math.nan
            if nodata_of(source, index, given) is not None:
                return value
    if dtype.kind == "f":
        return None
    masked = any(MaskFlags.per_dataset in flags for flags in source.mask_flag_enums)
    return 0 if masked or set(alpha_bands(source)) - set(indexes) else None


def finite(values: np.ndarray) -> np.ndarray:
    """Return where values are numbers that float32, the type of the models, can hold.

    False for NaN, infinity, and the limits of float32 and beyond, which some programs store for
    nodata without a tag.
    """
    if values.dtype.kind != "f":
        return np.ones(values.shape, bool)
    return np.abs(values) < np.finfo(np.float32).max


class Validity:
    """Validity of bands: False for NaN, infinity and nodata, and where a mask or alpha band is 0.

    An alpha band among the bands is data and masks nothing: GDAL declares the fourth of four 8-bit
    bands as alpha by default.

    Args:
        source: Open raster, whose header is read once.
        indexes: 1-based bands.
        nodata: Replaces the nodata value of the file; NaN for none.
        masked_by: 1-based alpha bands that mask; default: all that are not in ``indexes``.

    Attributes:
        nodata: Nodata value of each band in its type, None for none or NaN.
    """

    def __init__(
        self,
        source: Dataset,
        indexes: Sequence[int],
        nodata: float | None = None,
        masked_by: Sequence[int] | None = None,
    ) -> None:
        self._source, self._indexes = source, list(indexes)
        if masked_by is None:
            masked_by = [band for band in alpha_bands(source) if band not in self._indexes]
        self._alphas = list(masked_by)
        flags = source.mask_flag_enums
        flags = [flags[index - 1] for index in self._indexes]
        # GDAL's mask of the dataset is its alpha band if that is the second or fourth band of a
        # file without a nodata value.
        self._masked = any(
            MaskFlags.per_dataset in each and MaskFlags.alpha not in each for each in flags
        )
        values = (nodata_of(source, index, nodata) for index in self._indexes)
        self.nodata = [
            None if value is None else np.asarray(value).astype(source.dtypes[index - 1])
            for index, value in zip(self._indexes, values, strict=True)
        ]

    def read(self, values: np.ndarray, **options: Any) -> np.ndarray:
        """Return the mask (C, H, W) of values that were read.

        Args:
            values: (C, H, W).
            **options: ``window`` that was read, and ``out_shape`` (C, H, W) if it was resampled.
        """
        resampled = "out_shape" in options
        valid = finite(values)
        # Resampled values cannot be compared with a nodata value; GDAL's masks are resampled too.
        if self._masked or (resampled and any(nodata is not None for nodata in self.nodata)):
            with quiet() if self._alphas else nullcontext():
                valid &= self._source.read_masks(self._indexes, **options) > 0
        if self._alphas:
            if resampled:
                options["out_shape"] = (len(self._alphas), *values.shape[1:])
            valid &= (self._source.read(self._alphas, **options) > 0).all(axis=0)
        for band, mask, nodata in zip(values, valid, self.nodata, strict=True):
            if nodata is not None and not resampled:
                mask &= band != nodata
        return valid


def read_valid(
    source: Dataset,
    indexes: Sequence[int],
    image: np.ndarray,
    window: Window | None = None,
    nodata: float | None = None,
) -> np.ndarray:
    """Return where all bands of a window are valid, (H, W) bool, see :class:`Validity`."""
    return Validity(source, indexes, nodata).read(image, window=window).all(axis=0)


def valid_values(image: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return where all bands of an image (C, H, W) are finite and not nodata, (H, W) bool."""
    valid = finite(image).all(axis=0)
    if nodata is not None and not np.isnan(nodata):
        valid &= (image != nodata).all(axis=0)
    return valid
