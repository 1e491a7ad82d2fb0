"""Reading vector files and tables, their errors, and geometries in other CRSs."""

import functools
import json
import math
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio import Affine

from hook.errors import DataError, HookError, SceneError
from hook.geo.measure import central_longitude, full_turn, horizontal_crs
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
_OTHER_SUFFIXES = (".json", ".kml", ".gpx", ".gdb", ".gml", ".sqlite", ".tab")
_LAYER = re.compile(r"(.+?)\|(layername|layerid)=(.+)", re.IGNORECASE | re.DOTALL)
GEOMETRY = "geometry"
"""Name of their geometry column."""
_BOX = "bbox"
_WGS84 = "OGC:CRS84"
_SIDE_POINTS = 32
"""Points along each side of an area to find it in a different CRS."""
_EDGES = 1024, 128
"""Edges are at most the side of the area of interest, else of the geometry, divided by these."""
_NOISE = 1e-9
"""Of a degree, or relative to the area of interest: differences of this size are rounding."""


def is_vector_file(path: str | os.PathLike) -> bool:
    """Whether a file is a vector source, by its suffix or because a layer of it is named."""
    file, layer = split_layer(path)
    return layer is not None or Path(file).suffix.lower() in (*VECTOR_SUFFIXES, *_OTHER_SUFFIXES)


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
    """Refuse to write features that are not on the earth as GeoJSON, always in WGS 84 (RFC 7946).

    Args:
        output: File to write, in any format.
        crs: CRS of the features, or None.
        source: Source of the features, for the error.
        error: Class of the error.

    Raises:
        SceneError: It is GeoJSON, and there is no CRS or one without a transformation to WGS 84,
            such as a local one; or ``error``.
    """
    if driver_of(output) != "GeoJSON":
        return
    found = "no CRS"
    if crs is not None:
        try:
            _transformer(_flat(crs), _flat(_WGS84))
            return
        except ProjError:
            found = f"{_flat(crs).name}, a CRS without a transformation to WGS 84"
    raise error(
        f"{output}: GeoJSON needs coordinates in WGS 84",
        expected=f"{source} with a CRS on the earth",
        found=found,
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


def split_layer(path: str | os.PathLike) -> tuple[str, str | int | None]:
    """Split the layer off the name of a vector source.

    Args:
        path: A file, or as QGIS writes it ``FILE|layername=NAME`` or ``FILE|layerid=NUMBER``.

    Returns:
        The file, and the name of the layer or its number, from 0; None without one.
    """
    path = os.fspath(path)
    found = _LAYER.fullmatch(path)
    if found is None or os.path.lexists(path):
        return path, None
    file, key, value = found.groups()
    return file, int(value) if key.lower() == "layerid" and value.isdecimal() else value


def choose_layer(
    path: str | os.PathLike,
    layer: str | int | None = None,
    geometries: Collection[str] = (),
    error: type[HookError] = DataError,
) -> tuple[str, str | None]:
    """Choose the layer of a vector source to read.

    If none is named and several have features with geometries, the first is chosen, with a warning.

    Args:
        path: See :func:`split_layer`.
        layer: Name of the layer, or its number from 0; None for the one that ``path`` names.
        geometries: Types of geometry, such as ``"Polygon"``: the first layer with one is chosen.
        error: Class of the error.

    Returns:
        The file, and the name of the layer; None for GeoParquet, and for a file without geometries.

    Raises:
        DataError: There is no such layer, or ``path`` names a different one; or ``error``.
    """
    file, named = split_layer(path)
    is_parquet = Path(file).suffix.lower() == ".parquet"
    kinds = {Path(file).stem: "one layer"} if is_parquet else dict(pyogrio.list_layers(file))
    known = {**dict(enumerate(kinds)), **{name.casefold(): name for name in kinds}}
    known |= {name: name for name in kinds}
    given = [one for one in (layer, named) if one is not None]
    found = {known.get(one, known.get(str(one).casefold())) for one in given}
    if len(found) > 1 or None in found:
        raise error(
            f"{file} cannot be read",
            expected=f"one of the layers {_listed(kinds)}",
            found=f"layer {' and '.join(map(str, given))}",
            remedy=f"name one of them: {file}|layername={next(iter(kinds), 'NAME')}",
        )
    if is_parquet:
        return file, None
    if found:
        return file, found.pop()
    filled = {name: kind for name, kind in kinds.items() if kind is not None}
    if len(filled) > 1:
        filled = {name: _types(file, name, kind) for name, kind in filled.items()}
        filled = {name: kind for name, kind in filled.items() if kind} or filled
    wanted = [name for name, kind in filled.items() if any(part in kind for part in geometries)]
    chosen = next(iter(wanted or filled), None)
    if len(filled) > 1:
        how = "the only one" if len(wanted) == 1 else "the first"
        how += " of " + " or ".join(f"{part.lower()}s" for part in geometries) if wanted else ""
        warnings.warn(
            f"{file} has {len(filled)} layers: {_listed(filled)}. {chosen}, {how}, is read; if "
            f"that is wrong, name the layer: {file}|layername=NAME",
            stacklevel=4,
        )
    return file, chosen


def _listed(kinds: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} ({kind or 'no geometries'})" for name, kind in kinds.items())


def _types(file: str, layer: str, kind: str) -> str:
    """Return the geometry types of the features of a layer; empty if it has none."""
    if not pyogrio.read_info(file, layer=layer, force_feature_count=True)["features"]:
        return ""
    if kind == "Unknown":  # as of all KML
        types = pyogrio.read_dataframe(file, layer=layer, columns=[]).geom_type.dropna()
        kind = " and ".join(sorted(set(types)))
    return kind.replace("Surface", "Polygon")


def read_vectors(
    path: str | os.PathLike,
    *,
    layer: str | int | None = None,
    geometries: Collection[str] = (),
    index_by_id: bool = False,
    error: type[HookError] = DataError,
    **texts: str,
) -> geopandas.GeoDataFrame:
    """Read a vector source: GeoParquet, or any format GDAL supports.

    Args:
        path: The file, or ``FILE|layername=NAME``.
        layer: Layer of the file; see :func:`choose_layer`.
        geometries: Wanted types of geometry; see there.
        index_by_id: Index the rows by the feature ids of the file, not from 0.
        error: Class of the error.
        **texts: ``what`` and ``expected`` of :func:`reading_vectors`.

    Raises:
        DataError: It cannot be read, lacks the layer, has no geometries, or a coordinate is NaN or
            infinite; or ``error``.
    """
    with reading_vectors(path, error=error, **texts):
        file, layer = choose_layer(path, layer, geometries, error)
        if Path(file).suffix.lower() == ".parquet":
            table = geopandas.read_parquet(file)
        else:
            options = {} if layer is None else {"layer": layer}
            table = geopandas.read_file(file, engine="pyogrio", fid_as_index=index_by_id, **options)
    if not isinstance(table, geopandas.GeoDataFrame) or table.active_geometry_name is None:
        raise error(
            f"{path} has no geometries",
            expected=texts.get("expected", "a layer of features with geometries"),
            found=f"a table of {', '.join(map(str, table.columns))}",
            remedy="choose a layer with geometries",
        )
    check_finite(table.geometry.to_numpy(), str(path), error)
    return table


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """Read a table without geometries, such as a ``.dbf``.

    Raises:
        DataError: It cannot be read.
    """
    with reading_vectors(path, "the table", "a table that GDAL reads, such as dBASE"):
        return pyogrio.read_dataframe(path, read_geometry=False)


class VectorBatches(NamedTuple):
    """A vector file read in batches."""

    schema: pa.Schema
    """Schema of the fields, without geometry."""
    count: int
    """Number of features."""
    crs: CRS | None
    batches: Iterator[tuple[pa.RecordBatch, np.ndarray]]
    """Fields, and (n,) shapely geometries."""
    metadata: dict[str, str] = {}
    """Metadata of the file (GeoParquet) or of its layer."""


@contextmanager
def vector_batches(
    path: str | os.PathLike, geometries: Collection[str] = ()
) -> Iterator[VectorBatches]:
    """Read a vector file in batches, so that wide fields are not held in memory twice.

    Errors are not translated: use it inside :func:`reading_vectors`.

    Args:
        path: GeoParquet (primary geometry), or any format GDAL supports; see :func:`choose_layer`.
        geometries: Wanted types of geometry; see there.

    Yields:
        The batches, which can be iterated once.
    """
    file, layer = choose_layer(path, geometries=geometries)
    if Path(file).suffix.lower() == ".parquet":
        yield from _parquet_batches(file)
    else:
        yield from _gdal_batches(file, layer)


def _parquet_batches(path: str) -> Iterator[VectorBatches]:
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

        notes = {
            key.decode(): value.decode(errors="replace")
            for key, value in (file.metadata.metadata or {}).items()
        }
        yield VectorBatches(pa.schema(kept), len(shapes), geometries.crs, batches(), notes)


def _gdal_batches(path: str, layer: str | None) -> Iterator[VectorBatches]:
    info = pyogrio.read_info(path, layer=layer, force_feature_count=True)
    count, notes = info["features"], info.get("layer_metadata") or {}
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
        yield VectorBatches(schema, count, crs, batches(), notes)


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


# ------------------------------------------------------------------------------------ other CRSs
def check_finite(geometries: Any, what: str, error: type[HookError] = DataError) -> None:
    """Check that all coordinates are numbers.

    Args:
        geometries: Shapely geometries.
        what: Their name in messages.
        error: Class of the error.

    Raises:
        DataError: One is NaN or infinite; or ``error``.
    """
    points = shapely.get_coordinates(geometries)
    if not np.isfinite(points).all():
        raise error(
            f"{what}: coordinates that are no numbers",
            expected="finite coordinates",
            found=points[~np.isfinite(points).all(axis=1)][0].tolist(),
            remedy="correct or remove these features",
        )


def only_polygons(geometries: np.ndarray) -> np.ndarray:
    """Return geometries with multipolygons of their polygons in place of collections."""
    found = np.array(geometries, dtype=object)
    for k in np.flatnonzero(shapely.get_type_id(found) == shapely.GeometryType.GEOMETRYCOLLECTION):
        parts = shapely.get_parts(shapely.get_parts(found[k]))
        polygons = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
        found[k] = shapely.multipolygons(polygons)
    return found


def reproject(
    geometries: Any,
    source: Any,
    target: Any,
    bounds: Sequence[float] | None = None,
    *,
    what: str,
    into: str | None = None,
    error: type[HookError] = DataError,
) -> np.ndarray:
    """Transform geometries to a different CRS, with edges that stay where they were drawn.

    Edges are straight in the CRS of the geometries (RFC 7946, section 3.1.1) and curved in others:
    they are densified before. With ``bounds``, geometries are cut to the neighbourhood of that area
    first, so that they may cover a hemisphere or the whole earth; and longitudes that differ by
    whole turns (-180 to 180, 0 to 360) are the same place, also if both CRSs are equal.

    Args:
        geometries: (N,) shapely geometries, None allowed.
        source: Their CRS, any pyproj accepts.
        target: The other CRS.
        bounds: Left, bottom, right, top of the area of interest in ``target``; None for all.
        what: Name of the geometries in messages.
        into: Name of ``target`` in messages, such as "the scene's CRS"; None for its own.
        error: Class of the error.

    Returns:
        (N,) geometries, empty if they are not near ``bounds``. Without ``bounds``, longitudes may
        be beyond 180 degrees in geometries that cross that meridian.

    Raises:
        DataError: There is no transformation, or a vertex is not finite or outside the domain of
            ``target``; or ``error``.
    """
    geometries = np.array(geometries, dtype=object)
    check_finite(geometries, what, error)
    source, target, same, turn = _compare(source, target)
    if same and (turn is None or bounds is None):
        return geometries
    with _reprojecting(what, source, into or target.name, error):
        boxes = None if bounds is None else [bounds]
        if bounds is not None and not same:
            boxes = _neighbourhood(source, target, bounds)
        owners, pieces = _pieces(geometries, turn, boxes, cut=not same)
        if not same:
            extents = shapely.bounds(pieces) if boxes is None else np.array(boxes)
            sides = (extents[:, 2:] - extents[:, :2]).max(axis=1, initial=0)
            steps = sides / _EDGES[1] if boxes is None else sides.max() / _EDGES[0]
            pieces = shapely.segmentize(pieces, np.where(steps > 0, steps, 1))
            pieces = _transform(pieces, source, target)
            if bounds is not None and _turn(target) and not _aligned(source, target):
                copies, pieces = _pieces(pieces, _turn(target), [bounds], cut=False)
                owners = owners[copies]
        found = np.full(len(geometries), shapely.Polygon(), dtype=object)
        found[owners] = pieces
        for k in np.flatnonzero(np.bincount(owners, minlength=1) > 1):
            parts = only_polygons(shapely.make_valid(only_polygons(pieces[owners == k])))
            # Parts that share an edge differ there by rounding.
            grid = _NOISE * max(bounds[2] - bounds[0], bounds[3] - bounds[1])
            found[k] = shapely.union_all(parts, grid_size=grid)
    return found


def to_wgs84(
    geometries: Any,
    crs: Any,
    step: float | None = None,
    *,
    what: str,
    error: type[HookError] = DataError,
) -> np.ndarray:
    """Transform polygons to longitude and latitude in WGS 84, as required by RFC 7946.

    They are cut at the antimeridian, and closed along the edge of the longitude-latitude plane
    around a pole.

    Args:
        geometries: (N,) shapely polygons or multipolygons.
        crs: Their CRS, any pyproj accepts.
        step: Longest edge to leave straight, in units of the CRS; None for any length.
        what: Name of the polygons in messages.
        error: Class of the error.

    Returns:
        (N,) polygons or multipolygons.

    Raises:
        DataError: See :func:`reproject`; or ``error``.
    """
    source, target = _flat(crs), _flat(_WGS84)
    if step is not None:
        geometries = shapely.segmentize(geometries, step)
    with _reprojecting(what, source, target.name, error):
        found = _transform(np.array(geometries, dtype=object), source, target)
        west, _, east, _ = np.nan_to_num(shapely.bounds(found)).T
        first, last = np.floor((west + 180 + _NOISE) / 360), np.floor((east + 180 - _NOISE) / 360)
        for turn in np.unique(first[first != 0]).tolist():
            moved = first == turn
            found[moved] = shapely.transform(found[moved], lambda xy, t=turn: xy - [360 * t, 0])
        for k in np.flatnonzero(first < last):
            (whole,), parts = only_polygons([shapely.make_valid(found[k])]), []
            for turn in range(int(last[k] - first[k]) + 1):
                part = whole & shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)
                parts.append(shapely.transform(part, lambda xy, t=turn: xy - [360 * t, 0]))
            found[k] = shapely.union_all(only_polygons(parts))
    return found


@contextmanager
def _reprojecting(what: str, source: CRS, into: str, error: type[HookError]) -> Iterator[None]:
    try:
        yield
    except (ProjError, shapely.errors.GEOSException) as problem:
        raise error(
            f"{what}: cannot be reprojected to {into}",
            expected=f"coordinates in {source.name}",
            found=" ".join(str(problem).split()).replace("the target", into),
            remedy="check the coordinates, longitude (or x) first, and their CRS",
        ) from problem


@functools.lru_cache(maxsize=64)
def _transformer(source: CRS, target: CRS) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def _flat(crs: Any) -> CRS:
    """Return a CRS, in any form pyproj accepts, without heights."""
    if not isinstance(crs, CRS):
        crs = _parse(crs if isinstance(crs, str | int) else crs.to_wkt())
    return crs.sub_crs_list[0] if crs.is_compound else crs


_parse = functools.lru_cache(maxsize=64)(CRS.from_user_input)  # scenes share CRSs


@functools.lru_cache(maxsize=64)
def _compare(source: Any, target: Any) -> tuple[CRS, CRS, bool, float | None]:
    """Return two CRSs, whether they are equal, and a full circle of a geographic source."""
    source, target = _flat(source), _flat(target)
    return source, target, source.equals(target, ignore_axis_order=True), _turn(source)


def _turn(crs: CRS) -> float | None:
    """Return a full circle in units of a geographic CRS; None for others."""
    crs = horizontal_crs(crs)
    return full_turn(crs) if crs.is_geographic else None


def _aligned(source: CRS, target: CRS) -> bool:
    """Whether both CRSs have longitudes about the same axis."""
    pair = horizontal_crs(source), horizontal_crs(target)
    return all(crs.is_geographic and not crs.is_derived for crs in pair)


def _project(
    x: np.ndarray, y: np.ndarray, source: CRS, target: CRS
) -> tuple[np.ndarray, np.ndarray]:
    """Transform coordinates; longitudes keep their turn."""
    found, y = _transformer(source, target).transform(x, y)
    if _aligned(source, target):
        turn = _turn(target)
        with np.errstate(invalid="ignore"):  # infinite
            found = found + turn * np.rint((x * (turn / _turn(source)) - found) / turn)
    return found, y


def _transform(geometries: np.ndarray, source: CRS, target: CRS) -> np.ndarray:
    """Transform all vertices; longitudes of neighbouring vertices differ by less than half a turn.

    Raises:
        ProjError: A vertex is outside the domain of the target.
    """

    def project(points: np.ndarray) -> np.ndarray:
        found = np.column_stack(_project(*points.T, source, target))
        if not np.isfinite(found).all():
            wrong = points[~np.isfinite(found).all(axis=1)][0].tolist()
            at = f"{wrong[0]:.10g}, {wrong[1]:.10g}"
            raise ProjError(f"a vertex at {at}, outside the area of the target")
        return found

    found, turn = shapely.transform(geometries, project), _turn(target)
    if turn is not None and not _aligned(source, target):
        points, index = shapely.get_coordinates(found, return_index=True)
        jumps = (np.abs(np.diff(points[:, 0])) > turn / 2) & (index[1:] == index[:-1])
        for k in np.unique(index[1:][jumps]).tolist():
            found[k] = _unwrapped(found[k], turn)
    return found


def _unwrapped(geometry: shapely.Geometry, turn: float) -> shapely.Geometry:
    """Undo jumps of longitudes in the rings of polygons, and close rings around a pole."""
    whole = []
    for polygon in shapely.get_parts(geometry):
        if polygon.geom_type != "Polygon":
            continue
        outline = _unwrapped_ring(polygon.exterior, turn, None)
        holes = [_unwrapped_ring(ring, turn, outline) for ring in polygon.interiors]
        whole.append(outline.difference(shapely.union_all(holes)))
    return shapely.union_all(whole)


def _unwrapped_ring(
    ring: shapely.LinearRing, turn: float, around: shapely.Geometry | None
) -> shapely.Geometry:
    x, y = shapely.get_coordinates(ring).T
    x = np.unwrap(x, period=turn)
    if abs(x[-1] - x[0]) > turn / 2:  # once around: a pole is inside
        x, y = np.append(x, [x[-1], x[0]]), np.append(y, [math.copysign(turn / 4, y.mean())] * 2)
    if around is not None:
        x += turn * np.rint((around.centroid.x - x.mean()) / turn)
    return only_polygons([shapely.make_valid(shapely.Polygon(np.column_stack([x, y])))])[0]


def _pieces(
    geometries: np.ndarray, turn: float | None, boxes: Sequence | None, cut: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of geometries in boxes, and in boxes one turn away: (M,) owners, pieces."""
    if boxes is None:
        return np.arange(len(geometries)), geometries
    bounds = shapely.bounds(geometries)  # NaN for empty ones
    owners, pieces = [np.zeros(0, int)], [np.zeros(0, object)]
    for shift in (0,) if turn is None else (0, -turn, turn):
        for box in boxes:
            left, bottom, right, top = (bounds + [shift, 0, shift, 0]).T
            across = (left < box[2]) & (right > box[0])
            if not shift:  # points and lines at the edge
                across = (left <= box[2]) & (right >= box[0])
            hits = np.flatnonzero(across & (bottom <= box[3]) & (top >= box[1]))
            parts = geometries[hits]
            if shift:
                parts = shapely.transform(parts, lambda xy, dx=shift: xy + [dx, 0])
            beyond = (left < box[0]) | (right > box[2]) | (bottom < box[1]) | (top > box[3])
            if cut and beyond[hits].any():
                valid = only_polygons(shapely.make_valid(parts[beyond[hits]]))
                parts[beyond[hits]] = only_polygons(shapely.intersection(valid, shapely.box(*box)))
            owners.append(hits)
            pieces.append(parts)
    owners, pieces = np.concatenate(owners), np.concatenate(pieces)
    kept = ~shapely.is_empty(pieces)
    return owners[kept], pieces[kept]


def _neighbourhood(
    source: CRS, target: CRS, bounds: Sequence[float]
) -> list[tuple[float, float, float, float]] | None:
    """Return boxes in the source that cover an area in the target; None for everything.

    Longitudes are cut where a projection cuts the earth, and boxes are narrower than half a turn.
    """
    left, bottom, right, top = bounds
    x, y = np.meshgrid(
        np.linspace(left, right, _SIDE_POINTS + 1), np.linspace(bottom, top, _SIDE_POINTS + 1)
    )
    u, v = (part.reshape(x.shape) for part in _project(x.ravel(), y.ravel(), target, source))
    turn, known = _turn(source), np.isfinite(u).all() and np.isfinite(v).all()
    if turn is None and not known:
        return None
    if turn is not None and known and not _aligned(source, target):
        u = np.unwrap(np.unwrap(u, period=turn, axis=1), period=turn, axis=0)
    west, east, south, north = u.min(), u.max(), v.min(), v.max()
    around = not known
    if turn is not None and known and not _aligned(source, target):
        for pole in (-turn / 4, turn / 4):
            pole_x, pole_y = _project(np.zeros(1), np.full(1, pole), source, target)
            if left <= pole_x[0] <= right and bottom <= pole_y[0] <= top:
                around, south, north = True, min(south, pole), max(north, pole)
    if around:
        west, east = -turn / 2, turn / 2
        south, north = (south, north) if known else (-turn / 4, turn / 4)
    margin = max(east - west, north - south) / 20
    south, north = south - margin, north + margin
    if turn is not None:
        south, north = max(south, -turn / 4), min(north, turn / 4)
    if not around:
        west, east = west - margin, east + margin
    edges = [(west, east)]
    if turn is not None and _turn(target) is None:
        cut = (central_longitude(horizontal_crs(target)) + 0.5) * turn
        cuts = cut + turn * np.arange(math.ceil((west - cut) / turn), (east - cut) / turn)
        thirds = np.linspace(west, east, math.ceil((east - west) / (turn / 3)) + 1)
        gap = 1e-12 * turn  # a vertex at the cut could be on either side
        stops = np.unique(np.concatenate([thirds, cuts]))
        edges = [(start + gap, end - gap) for start, end in zip(stops[:-1], stops[1:], strict=True)]
    return [(start, south, end, north) for start, end in edges]
