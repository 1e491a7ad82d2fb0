"""Read and write region files as arrays of fields, geometries and embeddings."""

import base64
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import rasterio
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError

from hook.arguments import short_repr
from hook.errors import ConfigError, DataError
from hook.geo.measure import areas_m2, has_areas
from hook.geo.vector import (
    GEOMETRY,
    check_geojson,
    driver_of,
    reading_vectors,
    reproject,
    vector_batches,
)
from hook.regions.layer import EMBEDDING, batch_rows, embedding_column, embedding_field
from hook.scenes.vector_files import GridSpec, write_tables

CHUNK_BYTES = 64 << 20
"""Size of a chunk of embeddings."""

# Formats without a binary field that other programs read.
_WITHOUT_EMBEDDINGS = ("FlatGeobuf", "GeoJSON")
# Metadata of files, and of tables.
_WHITENING = "embedding_whitening"


@dataclass(frozen=True, eq=False)
class Regions:
    """A table of N regions. A region's id is its row number, from 0.

    Args:
        source: Name of the file in messages.
        fields: All but geometry and embedding, N rows.
        geometry: (N,) shapely (multi)polygons.
        crs: CRS of the geometry.
        embeddings: (N, D) float32 with NaN for null; None if the file has none.
        whitening: (1 + D, D) float32, mean of embeddings and map that whitens them, of the regions
            that these are a part of (:class:`hook.regions.RegionIndex`); None: unknown.
    """

    source: str
    fields: pa.Table
    geometry: np.ndarray
    crs: CRS | None
    embeddings: np.ndarray | None
    whitening: np.ndarray | None = None

    @classmethod
    def from_table(cls, table: geopandas.GeoDataFrame) -> "Regions":
        """Convert a table, which may be empty.

        Raises:
            DataError: Its embeddings are not vectors of one width.
        """
        return _from_table(table, "the table of regions")

    @classmethod
    def read(cls, regions: "str | os.PathLike | geopandas.GeoDataFrame | Regions") -> "Regions":
        """Read a file, or convert a table; regions are returned as they are.

        Args:
            regions: GeoParquet or the first layer of any vector file, with the embedding as a list
                of numbers or a BLOB of little-endian float32; or such a table.

        Raises:
            DataError: It is neither, cannot be read, has no regions, or its embeddings are not
                vectors of one width.
        """
        if isinstance(regions, cls):
            return regions
        if isinstance(regions, geopandas.GeoDataFrame):
            source = "the table of regions"
            read = _from_table
            if regions.active_geometry_name is None:
                raise DataError(
                    f"{source} has no geometries",
                    expected="polygons",
                    found=", ".join(map(str, regions.columns)) or "no fields",
                    remedy="set the geometry column with set_geometry",
                )
        elif not isinstance(regions, str | os.PathLike):
            raise DataError(
                "regions: not a file or a table of polygons",
                expected="a file written by 'hook regions', or a GeoDataFrame",
                found=short_repr(regions),
                remedy="pass the name of a file, or read it with geopandas",
            )
        else:
            source = os.fspath(regions)
            read = _from_file
        expected = "regions written by 'hook regions', .parquet or .gpkg"
        with reading_vectors(source, "regions", expected):
            found = read(regions, source)
        if not len(found):
            raise DataError(
                f"{source}: has no regions",
                expected="one region or more",
                remedy="write the regions again (hook regions), of a scene with valid pixels",
            )
        return found

    def __len__(self) -> int:
        return len(self.geometry)

    def require_embeddings(self) -> np.ndarray:
        """Return the embeddings (N, D).

        Raises:
            DataError: There are none.
        """
        if self.embeddings is None:
            raise DataError(
                f"{self.source}: has no field {EMBEDDING}",
                expected="a vector for each region",
                found=", ".join(self.fields.column_names) or "no fields",
                remedy="write the regions with 'hook regions', as .parquet or .gpkg",
            )
        return self.embeddings

    def take(self, rows: np.ndarray) -> "Regions":
        """Return the rows (M,), in that order."""
        return replace(
            self,
            fields=self.fields.take(pa.array(rows)),
            geometry=self.geometry[rows],
            embeddings=None if self.embeddings is None else self.embeddings[rows],
        )

    def with_fields(self, new: Mapping[str, pa.Array], first: bool = False) -> "Regions":
        """Return the table with fields of N values added, replacing fields of the same names.

        They are added after the others, or before them with ``first``.
        """
        # Field names of a GeoPackage are case-insensitive.
        names = {name.casefold() for name in new}
        kept = {n: self.fields[n] for n in self.fields.column_names if n.casefold() not in names}
        columns = {**new, **kept} if first else {**kept, **new}
        return replace(self, fields=pa.table(columns))

    # ------------------------------------------------------------------------------ positions
    @cached_property
    def tree(self) -> shapely.STRtree:
        """Spatial index of the regions."""
        return shapely.STRtree(self.geometry)

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of the regions."""
        return tuple(shapely.total_bounds(self.geometry).tolist())

    def containing(self, points: np.ndarray) -> np.ndarray:
        """Return the regions of points (P,) in the regions' CRS; on a common edge, the first.

        Returns:
            (P,) region ids, -1 outside all regions.
        """
        numbers, rows = self.tree.query(points, predicate="intersects")
        found = np.full(len(points), len(self))
        np.minimum.at(found, numbers, rows)
        return np.where(found < len(self), found, -1)

    def overlapping(self, polygon: shapely.Geometry) -> tuple[np.ndarray, np.ndarray]:
        """Return the regions that overlap a (multi)polygon in the regions' CRS.

        Returns:
            (M,) region ids in ascending order, and the shared areas, see :meth:`areas`.
        """
        rows = np.sort(self.tree.query(polygon, predicate="intersects"))
        geometry = self.geometry[rows]
        if not shapely.is_valid(geometry).all():
            geometry = shapely.make_valid(geometry)
        areas = self.areas(shapely.intersection(geometry, polygon))
        return rows[areas > 0], areas[areas > 0]

    def areas(self, geometry: np.ndarray) -> np.ndarray:
        """Return areas in square metres, or in squared coordinate units if the CRS has no areas."""
        if not has_areas(self.crs):
            return shapely.area(geometry)
        return areas_m2(geometry, self.crs, self.bounds)

    def to_region_crs(
        self, geometry: np.ndarray, crs: object, what: str, error: type = ConfigError
    ) -> np.ndarray:
        """Transform geometries to the regions' CRS.

        Args:
            geometry: (P,) shapely geometries.
            crs: Their CRS, any pyproj accepts; None: that of the regions.
            what: Name of the geometries in messages.
            error: Class of the error.

        Raises:
            ConfigError: (or ``error``) The CRS is unknown, or the regions have none.
        """
        crs = self.crs if crs is None else crs
        if crs is None:
            return geometry
        try:
            crs = CRS.from_user_input(crs)
        except CRSError:
            raise error(
                f"{what}: unknown CRS",
                expected="a code such as EPSG:4326, or WKT",
                found=crs,
                remedy="correct the CRS",
            ) from None
        if self.crs is None:
            raise error(
                f"{what}: {self.source} has no CRS to transform it to",
                expected="no CRS",
                found=crs.to_string(),
                remedy="omit the CRS, and use coordinates of the regions",
            )
        names = dict(what=what, into="the regions' CRS", error=error)
        found = reproject(geometry, crs, self.crs, self.bounds, **names)
        far = shapely.is_empty(found)
        found[far] = reproject(geometry[far], crs, self.crs, **names)
        return found

    # ------------------------------------------------------------------------------ output
    def to_geodataframe(self) -> geopandas.GeoDataFrame:
        """Convert to geopandas; ``embedding`` holds arrays (D,)."""
        table = self.fields.to_pandas()
        table.index = range(len(self))  # a table without fields has no rows
        if self.embeddings is not None:
            table[EMBEDDING] = list(self.embeddings)
        found = geopandas.GeoDataFrame(table, geometry=self.geometry, crs=self.crs)
        if self.whitening is not None:
            found.attrs[_WHITENING] = _to_text(self.whitening)
        return found

    def write(self, staged: Path, output: Path, layer: str) -> int:
        """Write a vector file, and return the number of regions.

        FlatGeobuf and GeoJSON have no embeddings; GeoJSON is in WGS 84, and FlatGeobuf reorders
        rows.

        Args:
            staged: File to write.
            output: Final name; its suffix sets the format (:func:`driver_of`).
            layer: Name of the layer; GeoParquet has none.

        Raises:
            SceneError: The file cannot be written, or is GeoJSON and there is no CRS.
        """
        driver = driver_of(output)
        check_geojson(output, self.crs, "regions")
        kinds = set(shapely.get_type_id(self.geometry).tolist())
        geometry, kind = self.geometry, "Polygon"
        if kinds != {shapely.GeometryType.POLYGON}:
            kind = "MultiPolygon"
            geometry = np.array([_as_multi(shape) for shape in geometry], object)
        fields = self.fields.cast(
            pa.schema([_typed(field) for field in self.fields.schema.remove_metadata()])
        )
        schema, notes = list(fields.schema), {}
        with_embeddings = self.embeddings is not None and driver not in _WITHOUT_EMBEDDINGS
        if with_embeddings:
            field, notes = embedding_field(self.embeddings.shape[1], driver)
            schema.append(field)
            if self.whitening is not None:
                notes = notes | {_WHITENING: _to_text(self.whitening)}
        schema = pa.schema([*schema, (GEOMETRY, pa.binary())], notes or None)

        def tables() -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
            step = batch_rows(self.embeddings.shape[1] if with_embeddings else 1)
            for start in range(0, len(self), step):
                part = slice(start, start + step)
                rows = fields.slice(start, step).combine_chunks()
                columns = [column.chunk(0) for column in rows.columns]
                if with_embeddings:
                    kind_of_vector = schema.field(EMBEDDING).type
                    columns.append(embedding_column(self.embeddings[part], kind_of_vector))
                columns.append(pa.array(shapely.to_wkb(geometry[part]), pa.binary()))
                yield pa.record_batch(columns, schema), shapely.bounds(geometry[part])

        return write_tables(tables(), schema, self._grid(), staged, output, driver, layer, kind)

    def _grid(self) -> GridSpec:
        """Return the CRS, and the smallest region's size for the precision of GeoJSON."""
        areas = shapely.area(self.geometry)
        side = math.sqrt(areas[areas > 0].min(initial=math.inf))
        if side == math.inf:  # no regions
            return GridSpec(self.crs, rasterio.Affine.identity())
        left, _, _, top = shapely.total_bounds(self.geometry).tolist()
        return GridSpec(self.crs, rasterio.Affine(side, 0, left, 0, -side, top))


def chunks(rows: np.ndarray, dims: int) -> Iterator[np.ndarray]:
    """Split row numbers into chunks with embeddings of at most ``CHUNK_BYTES``."""
    step = max(CHUNK_BYTES // (4 * dims), 1)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def format_rows(rows: np.ndarray) -> str:
    """Format row numbers for a message, at most ten."""
    return ", ".join(map(str, rows[:10].tolist())) + (", ..." if len(rows) > 10 else "")


def _typed(field: pa.Field) -> pa.Field:
    """Return text as the type of a column without values, whose own type GDAL does not take."""
    return field.with_type(pa.string()) if pa.types.is_null(field.type) else field


def _as_multi(shape: shapely.Geometry) -> shapely.Geometry:
    return shapely.MultiPolygon([shape]) if shape.geom_type == "Polygon" else shape


# ------------------------------------------------------------------------------------ reading


def _from_table(table: geopandas.GeoDataFrame, source: str) -> Regions:
    vectors = None
    if EMBEDDING in table:
        # Row by row, for NumPy arrays and bytes.
        column = pa.array([None if _is_null(v) else v for v in table[EMBEDDING]])
        vectors = _matrix([column], len(table), source)
    others = table.drop(columns=[table.geometry.name, *({EMBEDDING} & set(table.columns))])
    fields = pa.Table.from_pandas(others, preserve_index=False).replace_schema_metadata(None)
    if vectors is not None and not vectors.size:
        vectors = None  # unknown width in an empty table
    whitening = _from_text(table.attrs.get(_WHITENING), vectors)
    return Regions(source, fields, table.geometry.to_numpy(), table.crs, vectors, whitening)


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _from_file(path: str | os.PathLike, source: str) -> Regions:
    fields: list[pa.Table] = []
    shapes: list[np.ndarray] = [np.empty(0, object)]
    with vector_batches(path, ("Polygon",)) as file:
        kept = [name for name in file.schema.names if name != EMBEDDING]

        def columns() -> Iterator[pa.Array | None]:
            # Batch by batch, so that embeddings are in memory once.
            for batch, geometry in file.batches:
                fields.append(pa.Table.from_batches([batch]).select(kept))
                shapes.append(geometry)
                yield batch.column(EMBEDDING) if EMBEDDING in file.schema.names else None

        vectors = None
        if EMBEDDING in file.schema.names:
            vectors = _matrix(columns(), file.count, source)
        else:
            for _ in columns():
                pass
        empty = file.schema.empty_table().select(kept)
        whitening = _from_text(file.metadata.get(_WHITENING), vectors)
    table = pa.concat_tables([empty, *fields]).replace_schema_metadata(None)
    return Regions(source, table, np.concatenate(shapes), file.crs, vectors, whitening)


def _to_text(whitening: np.ndarray) -> str:
    """Return a matrix as text: its little-endian float32 in base64."""
    return base64.b64encode(whitening.astype("<f4").tobytes()).decode()


def _from_text(stored: object, vectors: np.ndarray | None) -> np.ndarray | None:
    """Return the matrix (1 + D, D) in a text, None if there is none of embeddings (N, D)."""
    if not isinstance(stored, str) or vectors is None:
        return None
    dims = vectors.shape[1]
    try:
        found = np.frombuffer(base64.b64decode(stored, validate=True), "<f4")
    except ValueError:
        return None
    fits = found.size == (1 + dims) * dims and np.isfinite(found).all()
    return found.reshape(1 + dims, dims) if fits else None


def _matrix(columns: Iterable[pa.Array], count: int, source: str) -> np.ndarray:
    """Concatenate columns of embeddings to one array (N, D)."""
    matrix, start = None, 0
    waiting = 0  # leading rows without an embedding
    for column in columns:
        known = column.is_valid().to_numpy(zero_copy_only=False)
        vectors = _vectors(column.drop_null(), source)
        if matrix is None and vectors.shape[1]:
            matrix = np.full((count, vectors.shape[1]), np.nan, np.float32)
            start = waiting
        if matrix is None:
            waiting += len(known)
            continue
        if len(vectors) and vectors.shape[1] != matrix.shape[1]:
            raise _width_error(source, {vectors.shape[1], matrix.shape[1]})
        if len(vectors):
            matrix[start : start + len(known)][known] = vectors
        start += len(known)
    if matrix is None and count:
        raise DataError(
            f"{source}: has no embeddings",
            expected="a vector for each region",
            found=f"null in all {count} regions",
            remedy="write the regions with 'hook regions'",
        )
    return np.empty((0, 0), np.float32) if matrix is None else matrix


def _vectors(column: pa.Array, source: str) -> np.ndarray:
    """Return a column without nulls as (n, D) float32."""
    kind = column.type
    if not len(column):
        return np.empty((0, 0), np.float32)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        lengths = set(pc.unique(pc.binary_length(column)).to_pylist())
        if any(length % 4 or not length for length in lengths):
            raise DataError(
                f"{source}: field {EMBEDDING}",
                expected="BLOBs of little-endian float32, 4 bytes each",
                found=f"BLOBs of {', '.join(map(str, sorted(lengths)[:5]))} bytes",
                remedy="write the regions again with hook regions",
            )
        flat, widths = np.frombuffer(b"".join(column.to_pylist()), "<f4"), {n // 4 for n in lengths}
    elif (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    ):
        widths = set(pc.unique(pc.list_value_length(column)).to_pylist())
        flat = column.flatten().cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    else:
        raise DataError(
            f"{source}: field {EMBEDDING}",
            expected="a list of numbers, or a BLOB of little-endian float32",
            found=kind,
            remedy="use a file written by hook regions",
        )
    if len(widths) != 1 or 0 in widths:
        raise _width_error(source, widths)
    return flat.reshape(len(column), -1)


def _width_error(source: str, widths: Iterable[int]) -> DataError:
    return DataError(
        f"{source}: field {EMBEDDING}",
        expected="vectors of one width",
        found=f"vectors of {', '.join(map(str, sorted(widths)[:5]))} numbers",
        remedy="write the regions again with hook regions",
    )
