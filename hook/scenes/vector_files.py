"""Tables of polygons, streamed into files: GeoParquet, and the formats that GDAL writes."""

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import rasterio
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError
from pyproj import CRS, Transformer

from hook.geo.vector import GEOMETRY
from hook.scenes.statistics import ClassMap

_BOUNDS = ["xmin", "ymin", "xmax", "ymax"]
# pyogrio raises RuntimeError where GDAL fails amid a stream.
WRITE_ERRORS = (
    DataSourceError,
    DataLayerError,
    FeatureError,
    FieldError,
    pa.ArrowException,
    OSError,
    RuntimeError,
)


class Place(NamedTuple):
    """Where pixels lie."""

    crs: CRS | None
    transform: rasterio.Affine


@contextlib.contextmanager
def without_clock() -> Iterator[None]:
    """Keep the time of writing out of GeoPackages: the same map gives the same bytes."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def write_with_gdal(
    tables: Iterator[tuple[pa.RecordBatch, np.ndarray]],
    schema: pa.Schema,
    path: Path,
    driver: str,
    layer: str,
    source: "ClassMap | Place",
    geometry_type: str = "Polygon",
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Stream tables into a file of GDAL's; return the number of rows.

    Args:
        tables: Tables with the geometries as WKB, and the bounds (n, 4) of these.
        schema: Of the tables.
        path: File to write.
        driver: GDAL's name of the format.
        layer: Name of the layer.
        source: Says the CRS.
        geometry_type: ``"Polygon"`` or ``"MultiPolygon"``.
        metadata: Of the layer, for GeoPackage.
    """
    count, failure = 0, None

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal count, failure
        try:
            for table, _ in tables:
                count += len(table)
                yield table
        except BaseException as error:  # GDAL would tell only that there was one
            failure = error
            raise

    options = {}
    if driver == "GeoJSON":
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": str(_decimals(source))}
    try:
        with warnings.catch_warnings():
            # A map without a CRS is told of once, in our words.
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(schema, batches()),
                path,
                layer=layer,
                driver=driver,
                geometry_name=GEOMETRY,
                geometry_type=geometry_type,
                crs=source.crs and source.crs.to_wkt(),
                layer_metadata=metadata and dict(metadata),
                layer_options=options,
            )
    except Exception:
        if failure is not None:
            raise failure from failure.__cause__
        raise
    return count


def _decimals(source: ClassMap) -> int:
    """Digits of longitude and latitude that tell a hundredth of a pixel, at least RFC 7946's 7."""
    to_wgs84 = Transformer.from_crs(source.crs, "OGC:CRS84", always_xy=True)
    col, row = source.width // 2, source.height // 2
    corners = [source.transform @ corner for corner in ((col, row), (col + 1, row + 1))]
    lon, lat = to_wgs84.transform(*zip(*corners, strict=True))
    pixel = min(abs(lon[1] - lon[0]), abs(lat[1] - lat[0]))
    if not 0 < pixel < math.inf:
        return 7
    return min(max(7, math.ceil(-math.log10(pixel)) + 2), 15)


def write_geoparquet(
    tables: Iterator[tuple[pa.RecordBatch, np.ndarray]],
    schema: pa.Schema,
    path: Path,
    source: "ClassMap | Place",
    geometry_type: str = "Polygon",
) -> int:
    """Stream tables into GeoParquet 1.1, a row group each; return the number of rows.

    Layout: https://geoparquet.org/releases/v1.1.0/, with bounding boxes for readers that want a
    part. The file's own box is known at the end only, where Parquet has its metadata.
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
            "crs": source.crs and source.crs.to_json_dict(),  # null: unknown
            "covering": {"bbox": {name: ["bbox", name] for name in _BOUNDS}},
        }
        if count:
            column["bbox"] = [*low.tolist(), *high.tolist()]
        geo = {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
        writer.add_key_value_metadata({"geo": json.dumps(geo)})
    return count
