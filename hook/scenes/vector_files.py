"""Streaming tables of polygons into GeoParquet and formats of GDAL."""

import contextlib
import errno
import json
import math
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import rasterio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError
from pyproj import CRS, Transformer

from hook.errors import SceneError
from hook.geo.measure import horizontal_crs, in_units
from hook.geo.vector import GEOMETRY, to_wgs84

_BOUNDS = ["xmin", "ymin", "xmax", "ymax"]
# pyogrio raises RuntimeError if GDAL fails in a stream.
_WRITE_ERRORS = (
    DataSourceError,
    DataLayerError,
    FeatureError,
    FieldError,
    pa.ArrowException,
    OSError,
    RuntimeError,
    sqlite3.Error,
)


class GridSpec(NamedTuple):
    """CRS, transform and size of a raster."""

    crs: CRS | None
    transform: rasterio.Affine
    height: int = 1
    width: int = 1


def write_tables(
    tables: Iterator[tuple[pa.RecordBatch, np.ndarray]],
    schema: pa.Schema,
    grid: GridSpec,
    staged: Path,
    output: Path,
    driver: str,
    layer: str,
    kind: str = "Polygon",
) -> int:
    """Write tables of features; metadata of the schema become metadata of a GeoPackage.

    Args:
        tables: Tables with the geometries as WKB, and their bounds (n, 4).
        schema: Of the tables.
        grid: Or an object with its attributes, for the CRS and the precision of GeoJSON.
        staged: File to write.
        output: Final name, for messages.
        driver: GDAL's name of the format.
        layer: Name of the layer; GeoParquet has none.
        kind: ``"Polygon"`` or ``"MultiPolygon"``.

    Returns:
        The number of features.

    Raises:
        SceneError: The file cannot be written.
    """
    try:
        if driver == "Parquet":
            return _write_geoparquet(tables, schema, staged, grid, kind)
        notes = dict(schema.metadata or {}) if driver == "GPKG" else {}
        notes = {name.decode(): value.decode() for name, value in notes.items()}
        with _without_clock():
            return _write_with_gdal(tables, schema, staged, driver, layer, grid, kind, notes)
    except _WRITE_ERRORS as error:
        raise SceneError(
            f"{output}: cannot be written",
            found=error,
            remedy="check the free disk space and the permissions of the folder",
        ) from error


@contextlib.contextmanager
def _without_clock() -> Iterator[None]:
    """Omit the time of writing from GeoPackages, for deterministic bytes."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def _write_with_gdal(
    tables: Iterator[tuple[pa.RecordBatch, np.ndarray]],
    schema: pa.Schema,
    path: Path,
    driver: str,
    layer: str,
    grid: GridSpec,
    geometry_type: str,
    metadata: Mapping[str, str],
) -> int:
    """Stream tables into a file with GDAL; return the number of rows, see :func:`write_tables`."""
    count, failure = 0, None

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal count, failure
        try:
            for table, _ in tables:
                count += len(table)
                yield table
        except BaseException as error:  # GDAL does not pass it on
            failure = error
            raise

    options, crs = {}, grid.crs
    if driver == "GeoJSON":
        tables, crs = _in_wgs84(tables, grid), CRS("OGC:CRS84")
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": str(_decimals(grid))}
    try:
        with warnings.catch_warnings():
            # HOOK warns of maps without a CRS itself.
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(schema, batches()),
                path,
                layer=layer,
                driver=driver,
                geometry_name=GEOMETRY,
                geometry_type=geometry_type,
                crs=crs and crs.to_wkt(),
                layer_metadata=metadata or None,
                layer_options=options,
            )
    except Exception:
        if failure is not None:
            raise failure from failure.__cause__
        raise
    complete = {"GPKG": _is_geopackage, "FlatGeobuf": _is_flatgeobuf, "GeoJSON": _is_geojson}
    if not complete[driver](path, count, bool(metadata)):
        raise OSError(errno.EIO, "GDAL has not written all of the file")
    return count


# On a full disk GDAL passes over some errors: of the last bytes of a file, and of tables with the
# CRS, the spatial index or the number of features.
def _is_geojson(path: Path, count: int, has_metadata: bool) -> bool:
    with path.open("rb") as file:
        file.seek(-min(16, path.stat().st_size), os.SEEK_END)
        return b"".join(file.read().split()).endswith(b"]}")


def _is_flatgeobuf(path: Path, count: int, has_metadata: bool) -> bool:
    return len(pyogrio.read_bounds(path)[0]) == count


def _is_geopackage(path: Path, count: int, has_metadata: bool) -> bool:
    with contextlib.closing(
        sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
    ) as db:
        found = db.execute(
            "SELECT feature_count, min_x, srs.srs_id, extension_name FROM gpkg_contents"
            " JOIN gpkg_ogr_contents USING (table_name)"
            " LEFT JOIN gpkg_spatial_ref_sys AS srs USING (srs_id)"
            " LEFT JOIN gpkg_extensions AS extensions ON"
            " extensions.table_name = gpkg_contents.table_name"
            " AND extension_name = 'gpkg_rtree_index'"
        ).fetchone()
        notes = "SELECT count(*) FROM sqlite_master WHERE name = 'gpkg_metadata'"
        has_notes = not has_metadata or db.execute(notes).fetchone()[0]
    return bool(
        found
        and (found[0] or 0) == count  # GDAL 3.8 does not count to 0
        and None not in found[1 if count else 2 :]
        and has_notes
    )


def _in_wgs84(
    tables: Iterator[tuple[pa.RecordBatch, np.ndarray]], grid: GridSpec
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Transform the polygons of tables for GeoJSON; GDAL would only transform their vertices.

    Edges in projections are curved in longitude and latitude: they are divided so that they differ
    from straight ones by less than a tenth of a pixel below 76 degrees of latitude.
    """
    crs, step = horizontal_crs(grid.crs), None
    if not crs.is_geographic or crs.is_derived:
        pixel = math.sqrt(abs(grid.transform.determinant))
        step = math.sqrt(0.2 * pixel * in_units(crs.ellipsoid.semi_major_metre, crs))
    for table, bounds in tables:
        column = table.schema.get_field_index(GEOMETRY)
        drawn = shapely.from_wkb(table.column(column).to_numpy(zero_copy_only=False))
        found = to_wgs84(drawn, grid.crs, step, what="the polygons", error=SceneError)
        # GEOS returns multipolygons of one part as polygons.
        kinds = shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON
        single = (shapely.get_type_id(found) == kinds[0]) & (shapely.get_type_id(drawn) == kinds[1])
        found[single] = shapely.multipolygons(found[single, np.newaxis])
        wkb = pa.array(shapely.to_wkb(found), pa.binary())
        yield table.set_column(column, GEOMETRY, wkb), bounds


def _decimals(grid: GridSpec) -> int:
    """Return the decimals of degrees for a hundredth of a pixel, at least 7 (RFC 7946)."""
    to_wgs84 = Transformer.from_crs(grid.crs, "OGC:CRS84", always_xy=True)
    col, row = grid.width // 2, grid.height // 2
    corners = [grid.transform @ corner for corner in ((col, row), (col + 1, row + 1))]
    lon, lat = to_wgs84.transform(*zip(*corners, strict=True))
    pixel = min(abs(lon[1] - lon[0]), abs(lat[1] - lat[0]))
    if not 0 < pixel < math.inf:
        return 7
    return min(max(7, math.ceil(-math.log10(pixel)) + 2), 15)


def _write_geoparquet(
    tables: Iterator[tuple[pa.RecordBatch, np.ndarray]],
    schema: pa.Schema,
    path: Path,
    grid: GridSpec,
    geometry_type: str,
) -> int:
    """Stream tables into GeoParquet 1.1, a row group each; return the number of rows.

    Layout: https://geoparquet.org/releases/v1.1.0/, with a column of bounding boxes.
    """
    box = pa.struct([(name, pa.float64()) for name in _BOUNDS])
    schema = schema.append(pa.field("bbox", box))
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for table, bounds in tables:
            boxes = pa.StructArray.from_arrays([pa.array(edge) for edge in bounds.T], _BOUNDS)
            writer.write_batch(pa.record_batch([*table.columns, boxes], schema))
            low, high = (
                np.minimum(low, bounds[:, :2].min(0)),
                np.maximum(high, bounds[:, 2:].max(0)),
            )
            count += len(table)
        column = {
            "encoding": "WKB",
            "geometry_types": [geometry_type] if count else [],
            "crs": grid.crs and grid.crs.to_json_dict(),  # null: unknown
            "covering": {"bbox": {name: ["bbox", name] for name in _BOUNDS}},
        }
        if count:
            column["bbox"] = [*low.tolist(), *high.tolist()]
        geo = {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
        writer.add_key_value_metadata({"geo": json.dumps(geo)})
    return count
