"""NumPy and xarray images to GeoTIFF and back. xarray is imported only where one is created."""

import ast
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import CRSError
from rasterio.transform import Affine

from hook.errors import ConfigError, DataError, HookError, SceneError
from hook.geo.raster import quiet, quiet_open
from hook.geo.styles import (
    NO_CLASS,
    ClassStyle,
    Colour,
    distinct_palette,
    read_category_names,
    write_style,
)

if TYPE_CHECKING:
    import xarray

Map = Union[str, os.PathLike, np.ndarray, "xarray.DataArray"]
"""A class map: a file, or an array."""

CODE_TAGS = "HOOK_"
"""First part of the names of the tags of codes, which are attributes of their arrays."""

_BANDS = ("band", "bands", "channel", "variable")
_ROWS, _COLUMNS = ("y", "lat", "latitude", "row"), ("x", "lon", "longitude", "column")
_NODATA = 255  # of class indexes in arrays, as in maps
_DTYPES = "bool, integers of up to 32 bits, or floating point"
_TOLERANCE = 1e-3  # of coordinates, in pixels: centres are written with few decimals


def is_data_array(image: Any) -> bool:
    """Whether an image is an ``xarray.DataArray`` (by its attributes)."""
    return all(hasattr(image, name) for name in ("dims", "coords", "attrs", "values"))


def is_array(image: Any) -> bool:
    """Whether an image is an array rather than a file."""
    return isinstance(image, np.ndarray) or is_data_array(image)


@contextmanager
def raster_file(image: Any, name: str = "array", classes: bool = False) -> Iterator[Any]:
    """Yield the path of an image; an array is a temporary GeoTIFF during the ``with`` block.

    Args:
        image: A path, which is yielded unchanged; values (bands, rows, cols) or (rows, cols); or a
            DataArray of these dimensions, optionally with CRS, coordinates, nodata value, scale and
            offset, and band names, as rioxarray reads and writes them.
        name: Stem of the file.
        classes: The values are class indexes; floating point with NaN for nodata is accepted, as
            rioxarray reads a map with ``masked=True``.

    Raises:
        DataError: The array is not an image, or its pixels are not on a regular grid.
    """
    if not is_array(image):
        yield image
        return
    with tempfile.TemporaryDirectory(prefix="hook-") as folder:
        path = Path(folder, f"{name}.tif")
        write_array(path, image, classes)
        with warnings.catch_warnings():
            if isinstance(image, np.ndarray):  # never georeferenced: no need to warn
                warnings.filterwarnings("ignore", message=".*(not georeferenced|no CRS)")
            try:
                yield path
            except HookError as error:
                raise _about_array(str(path), error) from None


def write_array(path: str | os.PathLike, image: Any, classes: bool = False) -> None:
    """Write an array as a GeoTIFF; for arguments and errors see :func:`raster_file`."""
    values, options, names = _split_array(image)
    if classes:
        values, options = _as_classes(values, options)
    attrs = getattr(image, "attrs", {})
    codes = {key: value for key, value in attrs.items() if str(key).startswith(CODE_TAGS)}
    codes = {k: v if isinstance(v, str) else json.dumps(v, default=list) for k, v in codes.items()}
    _write(Path(path), values, options, names, _tags_of(image, len(values)), codes)


def check_array(image: Any) -> tuple[int, int]:
    """Check the dimensions of an array (see :func:`raster_file`) without loading a lazy DataArray.

    Returns:
        Height and width.

    Raises:
        DataError: The array does not have the dimensions of an image.
    """
    if isinstance(image, np.ndarray):
        return _checked(image, "an array").shape[1:]
    _, rows, columns = _dims(image)
    return image.sizes[rows], image.sizes[columns]


def _about_array(path: str, error: HookError) -> HookError:
    """Replace the name of the temporary file in an error by "the array"."""
    parts = [
        part.replace(path, "the array") if isinstance(part, str) else part
        for part in (error.what, error.expected, error.found, error.remedy)
    ]
    return type(error)(parts[0], expected=parts[1], found=parts[2], remedy=parts[3])


@contextmanager
def raster_files(images: Any) -> Iterator[Any]:
    """Like :func:`raster_file` for a scene, which may be several files or arrays."""
    with ExitStack() as stack:
        if isinstance(images, list | tuple) and any(map(is_array, images)):
            files = enumerate(images)
            yield [stack.enter_context(raster_file(one, f"array_{k}")) for k, one in files]
        else:
            yield stack.enter_context(raster_file(images))


@contextmanager
def map_file(class_map: Map) -> Iterator[tuple[str | os.PathLike, int | None]]:
    """Yield the path of a class map, with class names and colours, and its nodata value or None."""
    if not is_array(class_map):
        if not isinstance(class_map, str | os.PathLike):
            raise SceneError(
                "the input is not a map",
                expected="a file name, an xarray.DataArray, or an array (rows, cols)",
                found=type(class_map).__name__,
                remedy="pass a class map, such as SceneMapper.map returns",
            )
        yield class_map, None
        return
    names, colours = _names_and_colours(class_map)
    nodata = _NODATA if isinstance(class_map, np.ndarray) and class_map.dtype.kind != "f" else None
    with raster_file(class_map, "map", classes=True) as path:
        if names:
            styled = map(ClassStyle, range(len(names)), names, colours)
            write_style(path, list(styled))
        yield path, nodata


def _names_and_colours(class_map: Any) -> tuple[list[str], list[Colour]]:
    """Read class names and palette from attributes of a DataArray; files store lists as text."""
    found = []
    for key in ("classes", "palette"):
        value = getattr(class_map, "attrs", {}).get(key)
        if isinstance(value, str):
            with suppress(ValueError, SyntaxError):
                value = ast.literal_eval(value)
        found.append(list(value) if isinstance(value, list | tuple | np.ndarray) else [])
    names, colours = found
    if not all(isinstance(name, str) for name in names):
        return [], []
    try:
        colours = [tuple(bytes(map(int, colour))) for colour in colours]
    except (TypeError, ValueError):
        colours = []
    if len(colours) != len(names) or any(len(colour) != 3 for colour in colours):
        colours = distinct_palette(len(names))
    return [str(name) for name in names], colours


def check_no_resume(resume: bool, output: Any) -> None:
    """Refuse to resume a run via temporary files.

    Raises:
        ConfigError: ``resume`` is set.
    """
    if resume:
        raise ConfigError(
            "resume needs files",
            expected="a scene in files, and an output",
            found="an array" if output is not None else "no output",
            remedy="write the scene to a GeoTIFF and set output, or omit resume",
        )


def _split_array(image: Any) -> tuple[np.ndarray, dict[str, Any], list[str] | None]:
    """Return values (C, H, W), profile options of rasterio and band names of an array."""
    if isinstance(image, np.ndarray):
        return _checked(image, "an array"), {}, None
    band_dims, rows, columns = _dims(image)
    image = image.transpose(*band_dims, rows, columns)
    values = _checked(np.asarray(image.values), "the DataArray")
    options: dict[str, Any] = {"crs": _crs_of(image)}
    if columns in image.coords and rows in image.coords:
        options["transform"] = _grid_of(image.coords[columns].values, image.coords[rows].values)
    nodata = _nodata_of(image)
    if nodata is not None and not np.isnan(nodata) and np.can_cast(np.min_scalar_type(
        int(nodata) if float(nodata).is_integer() else nodata), values.dtype):  # fmt: skip
        options["nodata"] = nodata
    return values, options, _band_names(image, band_dims, len(values))


def _dims(image: Any) -> tuple[list[str], str, str]:
    """Return the band dimension (none or one), rows and columns of a DataArray."""
    if hasattr(image, "data_vars"):
        raise DataError(
            "an xarray.Dataset was given",
            expected="an xarray.DataArray",
            found=f"the variables {', '.join(map(str, image.data_vars))}",
            remedy="select a variable, dataset[name], or stack: dataset.to_dataarray('band')",
        )
    dims = [str(dim) for dim in image.dims]
    rows, columns = (next((d for d in dims if d in known), None) for known in (_ROWS, _COLUMNS))
    band_dims = [dim for dim in dims if dim not in (rows, columns)]
    if rows is None or columns is None or len(band_dims) > 1 or not set(band_dims) <= set(_BANDS):
        raise DataError(
            "the DataArray is not an image",
            expected="dimensions band, y and x, or y and x",
            found=", ".join(dims),
            remedy="select one time or variable with sel(), and rename() the dimensions",
        )
    return band_dims, rows, columns


def _as_classes(values: np.ndarray, options: dict) -> tuple[np.ndarray, dict]:
    """Convert integral floats to integers, and NaN to the nodata value."""
    known = np.isfinite(values) & (values != options.get("nodata", np.nan))
    if values.dtype.kind != "f" or not (values[known] == np.rint(values[known])).all():
        return values, options
    return np.where(known, values, NO_CLASS).astype(np.int32), options | {"nodata": NO_CLASS}


def _checked(values: np.ndarray, what: str) -> np.ndarray:
    values = values[np.newaxis] if values.ndim == 2 else values
    if values.dtype == bool:
        values = values.astype(np.uint8)
    is_64_bit = values.dtype.kind in "iu" and values.dtype.itemsize == 8
    if is_64_bit and values.size and np.array_equal(values, values.astype(np.int32)):
        values = values.astype(np.int32)
        is_64_bit = False
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "iuf" or is_64_bit:
        raise DataError(
            f"{what} is not an image",
            expected=f"(bands, rows, cols) of {_DTYPES}",
            found=f"shape {values.shape} of {values.dtype}",
            remedy="move the bands to the front with np.moveaxis, or convert it with astype",
        )
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _crs_of(image: Any) -> CRS | None:
    """Return the CRS from rioxarray or from a CF grid mapping."""
    if not image.attrs.get("crs", True):  # without one, of which rioxarray makes an error
        image = image.copy(deep=False)
        del image.attrs["crs"]
    try:
        found = getattr(getattr(image, "rio", None), "crs", None)
        if found is None:
            name = image.attrs.get("grid_mapping") or image.encoding.get("grid_mapping")
            mapping = image.coords[name] if name in image.coords else None
            if mapping is None and "spatial_ref" in image.coords:
                mapping = image.coords["spatial_ref"]
            attrs = {} if mapping is None else mapping.attrs
            found = attrs.get("crs_wkt") or attrs.get("spatial_ref") or image.attrs.get("crs")
        return None if found is None else CRS.from_user_input(found)
    except (CRSError, RuntimeError, ValueError, TypeError) as error:  # from GDAL, pyproj, rioxarray
        raise DataError(
            "the DataArray's CRS is invalid",
            expected="a CRS as set by rio.write_crs('EPSG:32633')",
            found=error,
            remedy="set it again",
        ) from None


def _grid_of(x: np.ndarray, y: np.ndarray) -> Affine:
    """Return the transform of a grid from its pixel centres."""
    steps = []
    for name, coords in (("x", x), ("y", y)):
        coords = np.asarray(coords, dtype=float)
        step = (coords[-1] - coords[0]) / (len(coords) - 1) if len(coords) > 1 else 0.0
        regular = coords[0] + step * np.arange(len(coords))
        if len(coords) > 1 and (
            step == 0 or np.abs(coords - regular).max() > _TOLERANCE * abs(step)
        ):
            raise DataError(
                f"the DataArray's pixels are not on a regular grid along {name}",
                expected="equally spaced coordinates",
                found=f"{coords[:3]} ... {coords[-1]}",
                remedy="resample it to a grid with rio.reproject() or interp()",
            )
        steps.append(step)
    across = steps[0] or abs(steps[1]) or 1.0
    down = steps[1] or -abs(across)
    return Affine(across, 0, float(x[0]) - across / 2, 0, down, float(y[0]) - down / 2)


def _nodata_of(image: Any) -> float | None:
    rio = getattr(image, "rio", None)
    found = getattr(rio, "nodata", None)
    if found is None:
        found = image.attrs.get("_FillValue", image.encoding.get("_FillValue"))
    return None if found is None else float(found)


def _tags_of(image: Any, count: int) -> dict[str, list[float]]:
    """Return scale and offset of the bands of a DataArray; other arrays have none."""
    tags = {}
    attrs = getattr(image, "attrs", {})
    for name, one, several, none in (
        ("scales", "scale_factor", "scales", 1.0),
        ("offsets", "add_offset", "offsets", 0.0),
    ):
        values = attrs.get(several, attrs.get(one, none))
        try:
            tags[name] = np.broadcast_to(np.ravel(values).astype(float), count).tolist()
        except (TypeError, ValueError):
            raise DataError(
                f"the DataArray's {one}",
                expected=f"a number, or {several} with one for each of {count} bands",
                found=values,
                remedy="correct or delete it in attrs",
            ) from None
    return tags


def _band_names(image: Any, band_dims: list[str], count: int) -> list[str] | None:
    names = image.attrs.get("long_name")
    if isinstance(names, list | tuple) and len(names) == count:
        return [str(name) for name in names]
    if band_dims and band_dims[0] in image.coords:
        labels = image.coords[band_dims[0]].values
        if labels.dtype.kind in "UO":
            return [str(label) for label in labels]
    return None


def _write(
    path: Path,
    values: np.ndarray,
    options: dict,
    names: Sequence[str] | None,
    tags: dict,
    codes: dict[str, str],
) -> None:
    count, height, width = values.shape
    with quiet_open(
        path, "w", driver="GTiff", count=count, height=height, width=width,
        dtype=values.dtype, tiled=True, BIGTIFF="IF_SAFER", photometric="MINISBLACK",
        **options,
    ) as sink:  # fmt: skip
        sink.write(values)
        # By default GDAL marks the last of two or four bands as alpha.
        sink.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (count - 1)]
        if names:
            sink.descriptions = tuple(names)
        sink.update_tags(**codes)
        if set(tags["scales"]) != {1.0} or set(tags["offsets"]) != {0.0}:
            sink.scales, sink.offsets = tags["scales"], tags["offsets"]


# ---------------------------------------------------------------------------------- results
def require_xarray(what: str) -> None:
    """Raise a ConfigError where xarray or rioxarray is not installed."""
    try:
        import rioxarray  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{what} is an xarray.DataArray, and xarray is not installed",
            expected="xarray and rioxarray",
            found=error,
            remedy="pip install 'hook-rs[xarray]', or name an output file",
        ) from None


def read_image(path: str | os.PathLike, dates: Sequence[str | None] = ()) -> "xarray.DataArray":
    """Read a raster as an array (band, y, x) with CRS, nodata value, band names and tags.

    With the ``dates`` of a time series it is (time, band, y, x), its names without them.
    """
    import rioxarray

    with quiet(), rioxarray.open_rasterio(path) as source:
        found = source.load()
    if not dates or None in dates:
        return found
    count = found.sizes["band"] // len(dates)
    names = found.attrs.get("long_name", ())
    names = [names] if isinstance(names, str) else [str(name) for name in names[:count]]
    import xarray

    starts = range(0, found.sizes["band"], count)
    parts = [found[k : k + count].assign_coords(band=found.band[:count]) for k in starts]
    series = xarray.concat(parts, dim=xarray.Variable("time", np.array(dates, "datetime64[ns]")))
    series.attrs = found.attrs | dict(long_name=[one.partition(" ")[2] for one in names])
    for key in ("scales", "offsets"):
        values = tuple(found.attrs.get(key, ()))
        if values and values == values[:count] * len(dates):  # those of a date, as of its bands
            series.attrs[key] = values[:count]
    return series


def read_class_map(
    path: str | os.PathLike, classes: Sequence[str], palette: Sequence[Sequence[int]]
) -> "xarray.DataArray":
    """Read a class map as an array.

    Returns:
        (y, x) class indexes, 255 for nodata, with coordinates, CRS (``rio.crs``) and nodata value
        (``rio.nodata``). Names and colours are in the attributes ``classes`` and ``palette``, and
        in ``flag_values`` and ``flag_meanings`` (CF conventions).
    """
    import rioxarray

    with quiet(), rioxarray.open_rasterio(path) as source:
        found = source.squeeze("band", drop=True).load()
    kept = {key: found.attrs[key] for key in ("_FillValue",) if key in found.attrs}
    names = (read_category_names(path) or classes)[: len(classes)]
    found.attrs = kept | dict(
        long_name="class",
        classes=list(names),
        palette=[list(map(int, colour)) for colour in palette],
        flag_values=list(range(len(names))),
        flag_meanings=" ".join(name.replace(" ", "_") for name in names),
    )
    return found.rename("class")
