"""Reading vector files and tables, and translating the errors of GDAL and pyarrow."""

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyproj import CRS
from rasterio import Affine

from hook.errors import DataError, HookError, SceneError
from hook.geo.raster import unreadable

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".shp", ".fgb", ".parquet")
DRIVERS = {
    ".gpkg": "GPKG",
    ".parquet": "Parquet",
    ".fgb": "FlatGeobuf",
    ".geojson": "GeoJSON",
    ".json": "GeoJSON",
}
"""Suffixes of the vector formats that HOOK writes, and GDAL's names of these."""
GEOMETRY = "geometry"
"""Name of their geometry column."""
_BOX = "bbox"


def is_vector_file(path: str | os.PathLike) -> bool:
    """Whether a file is a vector file, by its suffix."""
    return Path(path).suffix.lower() in (*VECTOR_SUFFIXES, ".json")


def driver_of(
    output: str | os.PathLike,
    formats: Mapping[str, str] = DRIVERS,
    error: type[HookError] = SceneError,
    what: str = "vector format",
) -> str:
    """Return GDAL's name of the format of a file, by its suffix.

    Args:
        output: File to write.
        formats: Names of formats by suffix.
        error: Class of the error.
        what: Kind of format, for the error.

    Raises:
        SceneError: The suffix is unknown; or ``error``.
    """
    driver = formats.get(Path(output).suffix.lower())
    if driver is None:
        raise error(
            f"{output}: unknown {what}",
            expected=f"a name ending in {', '.join(formats)}",
            found=Path(output).suffix or "no suffix",
            remedy="choose a different name for the output",
        )
    return driver


def check_geojson(
    output: str | os.PathLike, crs: object, source: str, error: type[HookError] = SceneError
) -> None:
    """Refuse to write features without a CRS as GeoJSON, which is always in WGS 84.

    Args:
        output: File to write, in any format.
        crs: CRS of the features, or None.
        source: Source of the features, for the error.
        error: Class of the error.

    Raises:
        SceneError: It is GeoJSON, and there is no CRS; or ``error``.
    """
    if crs is None and driver_of(output) == "GeoJSON":
        raise error(
            f"{output}: GeoJSON needs coordinates in WGS 84",
            expected=f"{source} with a CRS",
            found="no CRS",
            remedy="write .gpkg or .parquet, or set the CRS (rio edit-info --crs, set_crs)",
        )


@contextmanager
def reading_vectors(
    path: Any,
    what: str = "",
    expected: str = "a vector file that GDAL reads, such as a GeoPackage, or GeoParquet",
    error: type[HookError] = DataError,
) -> Iterator[None]:
    """Translate errors of GDAL, pyogrio, pyarrow and geopandas, see :func:`unreadable`.

    Raises:
        DataError: A library fails; or ``error``.
    """
    try:
        yield
    except HookError:
        raise
    except Exception as problem:  # the libraries have no common base class
        raise unreadable(path, problem, expected, what, error) from problem


def table_text(value: object) -> str:
    """Return a value of a table as text: 3.0 as 3, and without blanks around.

    A column of integers with gaps, as pandas and spreadsheets write it, holds 3.0.
    """
    text = str(value).strip()
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def geometry_layers(path: str | os.PathLike) -> dict[str, str]:
    """Return names and geometry types of the layers with geometries; none of GeoParquet."""
    if Path(path).suffix.lower() == ".parquet":
        return {}
    return {name: kind for name, kind in pyogrio.list_layers(path) if kind is not None}


def _first_layer(path: str | os.PathLike) -> str | None:
    """Return the first layer with geometries, None if there is none; warn if there are more."""
    layers = geometry_layers(path)
    if len(layers) > 1:
        listed = ", ".join(f"{name} ({kind})" for name, kind in layers.items())
        warnings.warn(
            f"{path} has {len(layers)} layers: {listed}. The first is read; if that is wrong, "
            "name the layer where there is an option for it, or save it as a file",
            stacklevel=3,
        )
    return next(iter(layers), None)


def read_vectors(
    path: str | os.PathLike,
    *,
    layer: str | int | None = None,
    index_by_id: bool = False,
    error: type[HookError] = DataError,
    **texts: str,
) -> geopandas.GeoDataFrame:
    """Read a vector file: GeoParquet, or any format GDAL supports.

    Args:
        path: The file.
        layer: Layer of the file; None for the first with geometries, with a warning if there are
            several.
        index_by_id: Index the rows by the feature ids of the file, not from 0.
        error: Class of the error.
        **texts: ``what`` and ``expected`` of :func:`reading_vectors`.

    Raises:
        DataError: It cannot be read, lacks the layer, or has no geometries; or ``error``.
    """
    with reading_vectors(path, error=error, **texts):
        if Path(path).suffix.lower() == ".parquet":
            table = geopandas.read_parquet(path)
        else:
            layer = _first_layer(path) if layer is None else layer
            options = {} if layer is None else {"layer": layer}
            table = geopandas.read_file(path, engine="pyogrio", fid_as_index=index_by_id, **options)
    if not isinstance(table, geopandas.GeoDataFrame) or table.active_geometry_name is None:
        raise error(
            f"{path} has no geometries",
            expected=texts.get("expected", "a layer of features with geometries"),
            found=f"a table of {', '.join(map(str, table.columns))}",
            remedy="choose a layer with geometries",
        )
    return table


class VectorBatches(NamedTuple):
    """A vector file read in batches."""

    schema: pa.Schema
    """Schema of the fields, without geometry."""
    count: int
    """Number of features."""
    crs: CRS | None
    batches: Iterator[tuple[pa.RecordBatch, np.ndarray]]
    """Fields, and (n,) shapely geometries."""


@contextmanager
def vector_batches(path: str | os.PathLike, layer: str | None = None) -> Iterator[VectorBatches]:
    """Read a vector file in batches, so that wide fields are not held in memory twice.

    Errors are not translated: use it inside :func:`reading_vectors`.

    Args:
        path: GeoParquet (primary geometry), or any format GDAL supports.
        layer: Layer of the file; None as in :func:`read_vectors`.

    Yields:
        The batches, which can be iterated once.
    """
    read = _parquet_batches if Path(path).suffix.lower() == ".parquet" else _gdal_batches
    yield from read(path, layer)


def _parquet_batches(path: str | os.PathLike, _: str | None) -> Iterator[VectorBatches]:
    with pq.ParquetFile(path) as file:
        geo = json.loads((file.metadata.metadata or {}).get(b"geo", b"{}"))
        if "primary_column" not in geo:
            raise ValueError("it is Parquet, but not GeoParquet")
        # geopandas decodes the geometries and their CRS.
        geometries = geopandas.read_parquet(path, columns=[geo["primary_column"]])
        schema = file.schema_arrow.remove_metadata()
        kept = [
            field
            for field in schema
            if field.name not in geometries.columns
            and not (field.name == _BOX and pa.types.is_struct(field.type))
        ]
        names = [field.name for field in kept]
        shapes = geometries.geometry.to_numpy()

        def batches() -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
            start = 0
            for batch in file.iter_batches(columns=names):
                yield batch.select(names), shapes[start : start + len(batch)]
                start += len(batch)

        yield VectorBatches(pa.schema(kept), len(shapes), geometries.crs, batches())


def _gdal_batches(path: str | os.PathLike, layer: str | None) -> Iterator[VectorBatches]:
    layer = _first_layer(path) if layer is None else layer
    count = pyogrio.read_info(path, layer=layer, force_feature_count=True)["features"]
    with pyogrio.open_arrow(path, layer=layer, use_pyarrow=True) as (meta, reader):
        geometry = meta["geometry_name"] or "wkb_geometry"
        if geometry not in reader.schema.names:
            raise ValueError("it has no geometries")
        fields = set(meta["fields"])
        names = [name for name in reader.schema.names if name in fields]

        def batches() -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
            for batch in reader:
                yield batch.select(names), shapely.from_wkb(batch.column(geometry).to_numpy(False))

        schema = pa.schema([reader.schema.field(name) for name in names])
        crs = None if meta["crs"] is None else CRS.from_user_input(meta["crs"])
        yield VectorBatches(schema, count, crs, batches())


def apply_affine(geometries: Any, transform: Affine) -> Any:
    """Apply an affine transform to shapely geometries."""
    return shapely.transform(geometries, lambda xy: np.column_stack(transform @ tuple(xy.T)))


def warn_missing_crs(what: str, assumed: str) -> None:
    """Warn that coordinates without a CRS are assumed to be in that of a different layer."""
    warnings.warn(
        f"{what}: no CRS; assuming {assumed}. If that is wrong, set the CRS with set_crs() or in "
        "a GIS",
        stacklevel=3,
    )
