"""Write regions as a layer of GeoParquet or GeoPackage."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from pyproj import CRS

from hook.geo.measure import areas_m2, grid_bounds, perimeters_m
from hook.geo.vector import GEOMETRY, apply_affine
from hook.regions.merging import Merger
from hook.regions.plan import RegionPlan
from hook.regions.strips import RegionTable, Strip
from hook.scenes.columns import regroup
from hook.scenes.vector_files import GridSpec, write_tables

FORMATS = {".parquet": "Parquet", ".gpkg": "GPKG"}
"""Suffixes of region files and their GDAL drivers."""

EMBEDDING = "embedding"
"""Name of the embedding column."""

# Limits of a row group or batch; rows with embeddings are large.
_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 20_000


def write_layer(
    strips: Iterator[Strip],
    plan: RegionPlan,
    grid: GridSpec,
    staged: Path,
    output: Path,
    driver: str,
    layer: str,
    merger: Merger | None = None,
) -> int:
    """Write the file; return the number of regions.

    ``merger`` joins the regions of strips; None: that of the plan, if any.
    """
    schema = _schema(plan, driver)
    kind = "Polygon" if plan.explode else "MultiPolygon"
    tables = _tables(_finished(strips, plan, merger), plan, grid, schema)
    return write_tables(tables, schema, grid, staged, output, driver, layer, kind)


def embedding_field(dims: int, driver: str) -> tuple[pa.Field, dict[str, str]]:
    """Return the field of embeddings of D numbers in a format, and its layer metadata."""
    if driver == "Parquet":
        return pa.field(EMBEDDING, pa.list_(pa.float32(), dims)), {}
    # GDAL's list fields are not readable by all programs.
    return pa.field(EMBEDDING, pa.binary()), {
        "embedding": f"BLOB of {dims} little-endian float32",
        "embedding_dims": str(dims),
    }


def embedding_column(vectors: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return embeddings (n, D) as a column of a type."""
    vectors = np.ascontiguousarray(vectors, "<f4")
    if pa.types.is_binary(kind):
        return pa.array([row.tobytes() for row in vectors], pa.binary())
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def _finished(
    strips: Iterator[Strip], plan: RegionPlan, merger: Merger | None
) -> Iterator[RegionTable]:
    """Yield completed regions."""
    if plan.merge is None and merger is None:
        yield from (strip.regions for strip in strips)
        return
    merger, bottom = merger or Merger(plan.merge, plan.explode), plan.height
    for strip in strips:
        yield merger.add(strip, strip.first_row + strip.height == bottom)


def _schema(plan: RegionPlan, driver: str) -> pa.Schema:
    fields = [("window_id", pa.int64()), ("token_id", pa.int32())]
    if plan.class_names is not None:
        fields += [("class_id", pa.int32()), ("class_name", pa.string()), ("score", pa.float64())]
    fields += [("pixels", pa.int64()), ("area_m2", pa.float64()), ("perimeter_m", pa.float64())]
    fields += [(f"{kind}_{b}", pa.float64()) for b in plan.bands for kind in ("mean", "std")]
    vector, notes = embedding_field(plan.embed_dims, driver)
    return pa.schema([*fields, vector, (GEOMETRY, pa.binary())], notes or None)


def _tables(
    regions: Iterator[RegionTable], plan: RegionPlan, grid: GridSpec, schema: pa.Schema
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Yield tables and the bounds (n, 4) of their geometries."""
    bounds = grid_bounds(grid)
    for part in regroup(regions, batch_rows(plan.embed_dims)):
        polygons = apply_affine(part.polygons, grid.transform)
        columns = [pa.array(part.windows), pa.array(part.tokens)]
        if plan.class_names is not None:
            voted = part.votes.any(axis=1)
            classes = np.where(voted, part.votes.argmax(axis=1), part.scores.argmax(axis=1))
            scores = part.scores[np.arange(len(classes)), classes] / part.pixels
            names = [plan.class_names[number] for number in classes.tolist()]
            columns += [pa.array(classes.astype(np.int32)), pa.array(names), pa.array(scores)]
        columns += [
            pa.array(part.pixels),
            pa.array(areas_m2(polygons, grid.crs, bounds), from_pandas=True),  # NaN becomes null
            pa.array(_perimeters(polygons, grid.crs, bounds), from_pandas=True),
        ]
        known = np.where(part.counts > 0, part.counts, math.nan)[:, np.newaxis]
        means = np.where(part.counts[:, np.newaxis] > 0, part.means, math.nan)
        deviations = np.sqrt(part.squares / known)
        bands = len(plan.bands)
        for mean, deviation in zip(means.T[:bands], deviations.T[:bands], strict=True):
            columns += [pa.array(mean, from_pandas=True), pa.array(deviation, from_pandas=True)]
        embeddings = part.embeddings
        if plan.of_scene:  # seeds follow the bands
            embeddings = np.nan_to_num(np.hstack([means[:, bands:], deviations[:, bands:]]))
        columns.append(embedding_column(embeddings, schema.field(EMBEDDING).type))
        columns.append(pa.array(shapely.to_wkb(polygons), pa.binary()))
        yield pa.record_batch(columns, schema), shapely.bounds(polygons)


def _perimeters(polygons: np.ndarray, crs: CRS | None, bounds: tuple[float, ...]) -> np.ndarray:
    """Return the perimeters of (multi)polygons in metres."""
    parts, token_ids = shapely.get_parts(polygons, return_index=True)
    return np.bincount(token_ids, perimeters_m(parts, crs, bounds), minlength=len(polygons))


def batch_rows(dims: int) -> int:
    """Return the number of rows of a row group or batch with embeddings of D numbers."""
    return int(np.clip(_BATCH_BYTES // (4 * max(dims, 1)), 1, _BATCH_ROWS))
