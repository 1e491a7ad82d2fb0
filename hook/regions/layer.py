"""Regions as a layer of a GeoParquet file or a GeoPackage."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from pyproj import CRS

from hook.errors import SceneError
from hook.regions.merging import Merger
from hook.regions.plan import RegionPlan
from hook.regions.strips import RegionTable, Strip
from hook.scenes.statistics import areas_m2, perimeters_m
from hook.scenes.vectors import (
    GEOMETRY,
    WRITE_ERRORS,
    Place,
    without_clock,
    write_geoparquet,
    write_with_gdal,
)

FORMATS = {".parquet": "Parquet", ".gpkg": "GPKG"}
"""Endings of region files and GDAL's names of their formats."""

# Of a row group or batch: embeddings make rows long.
_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 20_000


def write_layer(
    strips: Iterator[Strip],
    plan: RegionPlan,
    place: Place,
    staged: Path,
    output: Path,
    driver: str,
    layer: str,
) -> int:
    """Write the file; return the number of regions."""
    schema = _schema(plan, driver)
    kind = "Polygon" if plan.explode else "MultiPolygon"
    tables = _tables(_finished(strips, plan), plan, place, schema)
    try:
        if driver == "Parquet":
            return write_geoparquet(tables, schema, staged, place, kind)
        notes = {
            "embedding": f"BLOB of {plan.embed_dims} little-endian float32",
            "embedding_dims": str(plan.embed_dims),
        }
        with without_clock():
            return write_with_gdal(tables, schema, staged, driver, layer, place, kind, notes)
    except WRITE_ERRORS as error:
        raise SceneError(
            f"{output}: cannot be written",
            found=error,
            remedy="check the free space of the disk and the folder's permissions",
        ) from error


def _finished(strips: Iterator[Strip], plan: RegionPlan) -> Iterator[RegionTable]:
    """Yield regions as they are complete."""
    if plan.merge is None:
        yield from (strip.regions for strip in strips)
        return
    merger, bottom = Merger(plan.merge, plan.explode), plan.height
    for strip in strips:
        yield merger.add(strip, strip.first_row + strip.height == bottom)


def _schema(plan: RegionPlan, driver: str) -> pa.Schema:
    dims = plan.embed_dims
    fields = [("window_id", pa.int64()), ("token_id", pa.int32())]
    if plan.class_names is not None:
        fields += [("class_id", pa.int32()), ("class_name", pa.string()), ("score", pa.float64())]
    fields += [("pixels", pa.int64()), ("area_m2", pa.float64()), ("perimeter_m", pa.float64())]
    fields += [(f"{kind}_{b}", pa.float64()) for b in plan.bands for kind in ("mean", "std")]
    # Formats of GDAL's have no lists of numbers that all programs read.
    vector = pa.list_(pa.float32(), dims) if driver == "Parquet" else pa.binary()
    return pa.schema([*fields, ("embedding", vector), (GEOMETRY, pa.binary())])


def _tables(
    regions: Iterator[RegionTable], plan: RegionPlan, place: Place, schema: pa.Schema
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Yield tables and the bounds (n, 4) of their geometries."""
    a, b, c, d, e, f = place.transform[:6]

    def to_crs(corners: np.ndarray) -> np.ndarray:
        col, row = corners.T
        return np.column_stack([a * col + b * row + c, d * col + e * row + f])

    for part in _batches(regions, plan):
        polygons = shapely.transform(part.polygons, to_crs)
        columns = [pa.array(part.windows), pa.array(part.tokens)]
        if plan.class_names is not None:
            voted = part.votes.any(axis=1)
            classes = np.where(voted, part.votes.argmax(axis=1), part.scores.argmax(axis=1))
            scores = part.scores[np.arange(len(classes)), classes] / part.pixels
            names = [plan.class_names[number] for number in classes.tolist()]
            columns += [pa.array(classes.astype(np.int32)), pa.array(names), pa.array(scores)]
        columns += [
            pa.array(part.pixels),
            pa.array(areas_m2(polygons, place.crs), from_pandas=True),  # NaN becomes null
            pa.array(_perimeters(polygons, place.crs), from_pandas=True),
        ]
        known = np.where(part.counts > 0, part.counts, math.nan)[:, np.newaxis]
        means = np.where(part.counts[:, np.newaxis] > 0, part.means, math.nan)
        deviations = np.sqrt(part.squares / known)
        for mean, deviation in zip(means.T, deviations.T, strict=True):
            columns += [pa.array(mean, from_pandas=True), pa.array(deviation, from_pandas=True)]
        vectors = np.ascontiguousarray(part.embeddings, "<f4")
        if pa.types.is_binary(schema.field("embedding").type):
            columns.append(pa.array([row.tobytes() for row in vectors], pa.binary()))
        else:
            flat = pa.array(vectors.ravel())
            columns.append(pa.FixedSizeListArray.from_arrays(flat, plan.embed_dims))
        columns.append(pa.array(shapely.to_wkb(polygons), pa.binary()))
        yield pa.record_batch(columns, schema), shapely.bounds(polygons)


def _perimeters(polygons: np.ndarray, crs: CRS | None) -> np.ndarray:
    """Lengths of the rings of (multi)polygons in metres."""
    parts, owners = shapely.get_parts(polygons, return_index=True)
    return np.bincount(owners, perimeters_m(parts, crs), minlength=len(polygons))


def _batches(regions: Iterator[RegionTable], plan: RegionPlan) -> Iterator[RegionTable]:
    """Regroup tables into such of one number of rows, the last of fewer."""
    size = int(np.clip(_BATCH_BYTES // (4 * plan.embed_dims), 1, _BATCH_ROWS))
    waiting, count = [], 0
    for part in regions:
        waiting.append(part)
        count += len(part.tokens)
        if count < size:
            continue
        whole = RegionTable.joined(waiting)
        end = count - count % size
        for start in range(0, end, size):
            yield whole.take(slice(start, start + size))
        waiting, count = [whole.take(slice(end, None))], count - end
    if count:
        yield RegionTable.joined(waiting)
