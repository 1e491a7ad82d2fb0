"""The regions of a class map as polygons."""

import contextlib
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import rasterio
import shapely
from rasterio import features
from rasterio.windows import Window
from shapely.geometry import shape

from hook.errors import SceneError
from hook.geo.measure import NO_AREAS, areas_m2, grid_bounds, has_areas, perimeters_m
from hook.geo.raster import open_dataset, read_valid, reading
from hook.geo.staging import StagedFiles
from hook.geo.styles import distinct_palette, is_own_style, write_qml
from hook.geo.vector import GEOMETRY, apply_affine, check_geojson, driver_of
from hook.scenes.columns import join, regroup, take
from hook.scenes.dissolving import components, label, plan_dissolving
from hook.scenes.stac import item_of_map
from hook.scenes.statistics import ClassMap
from hook.scenes.vector_files import write_tables

_BATCH = 20_000
_OUTSIDE = -2


def polygonize(
    map_path: str | Path,
    output: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    nodata: int | None = None,
    min_area: float = 0,
    simplify: float = 0,
    scores: str | Path | None = None,
    layer: str = "regions",
    overwrite: bool = False,
    progress: bool = True,
    strip_rows: int | None = None,
    staging: str | None = None,
) -> int:
    """Write the 4-connected regions of a class map as non-overlapping polygons.

    Fields: ``class_id``, ``class_name``, ``score`` (mean of the region, only with ``scores``),
    ``area_m2`` and ``perimeter_m``, see :func:`areas_m2` and :func:`perimeters_m`. The CRS is that
    of the map; GeoJSON is in WGS 84 and cut into multipolygons at the antimeridian (RFC 7946).
    Edges follow pixel edges, and neighbours have the same vertices along their common edge.
    Polygons are in the order of their last pixels, except in FlatGeobuf.

    If the classes have names, a QGIS style with names and colours is written next to the file
    (``.qml``), unless there is one that is not HOOK's or that of a map.

    The map is read in strips of whole rows, and regions are written once complete. The bytes of
    the file do not depend on the height of the strips. ``min_area`` reads the map twice and holds
    up to about 400 bytes per region. ``simplify`` holds **all** polygons in memory.

    Args:
        map_path: A raster of class indexes.
        output: ``.gpkg`` (GeoPackage), ``.parquet`` (GeoParquet 1.1), ``.fgb`` (FlatGeobuf),
            ``.geojson`` or ``.json`` (GeoJSON).
        class_names: Names of the classes; None for the category names of the map, else
            ``class_0``, ...
        nodata: Nodata value; that of the map if None.
        min_area: Dissolve regions below this many square metres (pixels in a map without a CRS)
            into their largest neighbour, the first of equal ones. Smaller neighbours of a region
            are dissolved before it. Regions surrounded by nodata are kept.
        simplify: Tolerance of Visvalingam-Whyatt simplification in units of the CRS (pixels without
            one): about the square root of the area of removed corners. Common edges stay common;
            the borders to nodata and of the map are kept. Areas and perimeters are those of the
            simplified polygons.
        scores: A raster on the grid of the map: one band, or one per class. Scale, offset and
            nodata value of the bands are applied.
        layer: Name of the layer in the file; GeoParquet has none.
        overwrite: Replace the output if it exists.
        progress: Show a progress bar on a terminal.
        strip_rows: Rows read at a time; by default about 2 million pixels.
        staging: Name of the hidden folder, see :class:`hook.geo.staging.StagedFiles`.

    Returns:
        The number of polygons.

    Raises:
        SceneError: The map is unreadable or not a class map, a class has no name, the scores do not
            fit the map, the output exists or cannot be written, or its format is unknown.
    """
    output = Path(output)
    driver = driver_of(output)
    for name, value in (("min_area", min_area), ("simplify", simplify)):
        if not 0 <= value < math.inf:
            remedy = "use a non-negative number"
            raise SceneError(name, expected="a number >= 0", found=value, remedy=remedy)
    if simplify and not hasattr(shapely, "coverage_simplify"):
        raise SceneError(
            "simplify: needs shapely 2.1 or newer",
            found=shapely.__version__,
            remedy="upgrade shapely",
        )
    with (
        ClassMap(map_path, nodata, class_names, warn_unplaced=True) as source,
        StagedFiles(overwrite, staging, (map_path, scores, item_of_map(map_path))) as files,
        contextlib.ExitStack() as stack,
    ):
        check_geojson(output, source.crs, "a map")
        score_map = stack.enter_context(ScoreMap(scores, source)) if scores else None
        staged = files.add(output)
        style = output.with_suffix(".qml")
        # A style may be that of the map next to the polygons, or the user's.
        alone = not any(os.path.exists(output.with_suffix(end)) for end in (".tif", ".tiff"))
        outdated = overwrite and alone and is_own_style(style)
        if source.class_names and (outdated or not os.path.lexists(style)):
            _write_style(files.add(style), source)
        plan = plan_dissolving(source, min_area, strip_rows, progress) if min_area else None
        strips = source.strips(strip_rows, "writing polygons", progress)
        if plan:
            strips = plan.apply(strips)
        regions = _simplified(_regions(source, strips, score_map), source, simplify)
        tables = _tables(regions, source, score_map)
        schema = _schema(score_map is not None)
        count = write_tables(tables, schema, source, staged, output, driver, layer)
        files.commit()
    if not has_areas(source.crs):
        message = f"{map_path}: {NO_AREAS}, so its regions have no area and no perimeter"
        warnings.warn(message, stacklevel=2)
    return count


def _write_style(path: Path, source: ClassMap) -> None:
    """Write a QGIS style with the class names and colours of a map."""
    colours = source.read_colours() or {}
    palette = distinct_palette(len(source.class_names))
    named = [(value, name) for value, name in enumerate(source.class_names) if name]
    write_qml(
        path,
        [name for _, name in named],
        [colours.get(value, palette[value]) for value, _ in named],
        [value for value, _ in named],
    )


class ScoreMap:
    """Scores of a class map: one band, or one per class.

    Of a file with several kinds of scores (``hook map --scores probs,entropy``), the bands with
    the names of the classes are read, else the band ``margin``.

    Args:
        path: A raster on the grid of the map.
        class_map: The map.

    Raises:
        SceneError: The file cannot be opened, or its grid or values do not fit.
    """

    def __init__(self, path: str | Path, class_map: ClassMap) -> None:
        self.path = str(path)
        self._source = source = open_dataset(path, SceneError)
        try:
            size = (class_map.height, class_map.width)
            same_crs = not source.crs or not class_map.crs or source.crs == class_map.rasterio_crs
            if source.shape != size or not _same_grid(source.transform, class_map) or not same_crs:
                raise SceneError(
                    f"{path}: not on the map's grid",
                    expected=f"{size[0]} x {size[1]} pixels at {tuple(class_map.transform)[:6]}, "
                    f"{class_map.rasterio_crs}",
                    found=f"{source.height} x {source.width} pixels at "
                    f"{tuple(source.transform)[:6]}, {source.crs}",
                    remedy="use the scores that were written with the map, or warp them to it",
                )
            if any(np.dtype(dtype).kind not in "iuf" for dtype in source.dtypes):
                raise SceneError(
                    f"{path}: not scores",
                    expected="real numbers",
                    found=source.dtypes[0],
                    remedy="use the scores that were written with the map",
                )
            names = class_map.class_names
            described = list(source.descriptions)
            self._bands = list(source.indexes)
            if names and set(names) <= set(described):
                self._bands = [described.index(name) + 1 for name in names]
            elif "margin" in described:
                self._bands = [described.index("margin") + 1]
            elif source.count > 1 and names and source.count != len(names):
                raise self._band_error(f"{len(names)}, one per class")
            self.scales = [source.scales[band - 1] for band in self._bands]
            self.offsets = [source.offsets[band - 1] for band in self._bands]
        except BaseException:
            self.close()
            raise

    def _band_error(self, expected: str) -> SceneError:
        return SceneError(
            f"{self.path}: number of bands",
            expected=f"1 or {expected}",
            found=self._source.count,
            remedy="use the scores that were written with the map",
        )

    def read(self, row_off: int, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the score of the class of each pixel.

        Args:
            row_off: First row.
            classes: (h, width) class indexes, -1 for none.

        Returns:
            (h, width) stored values, and their validity, bool.

        Raises:
            SceneError: The file is damaged or lacks the band of a class.
        """
        window = Window(0, row_off, classes.shape[1], classes.shape[0])
        with reading(self.path, SceneError):
            if len(self._bands) == 1:
                scores, valid = self._read_band(self._bands[0], window)
            else:
                scores, valid = None, np.zeros(classes.shape, bool)
                for class_id in np.unique(classes[classes >= 0]).tolist():
                    if class_id >= len(self._bands):
                        raise self._band_error(f"at least {class_id + 1}")
                    band, mask = self._read_band(self._bands[class_id], window)
                    scores = np.zeros_like(band) if scores is None else scores
                    pixels = classes == class_id
                    scores[pixels], valid[pixels] = band[pixels], mask[pixels]
                scores = np.zeros(classes.shape) if scores is None else scores
        valid &= classes >= 0
        if scores.dtype.kind == "f":
            valid &= np.isfinite(scores)
        return scores, valid

    def _read_band(self, number: int, window: Window) -> tuple[np.ndarray, np.ndarray]:
        values = self._source.read([number], window=window)
        return values[0], read_valid(self._source, [number], values, window)

    def means(self, sums: np.ndarray, counts: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return the mean scores of regions, (N,) float64, NaN where no pixel has a score.

        Args:
            sums: (N,) sums of stored values.
            counts: (N,) numbers of pixels with a score.
            classes: (N,) classes.
        """
        bands = classes if len(self._bands) > 1 else np.zeros_like(classes)
        means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        return means * np.asarray(self.scales)[bands] + np.asarray(self.offsets)[bands]

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> "ScoreMap":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _same_grid(transform: rasterio.Affine, class_map: ClassMap) -> bool:
    """Whether the corners of both grids are equal to a hundredth of a pixel."""
    to_map = ~class_map.transform * transform
    corners = [(0, 0), (class_map.width, 0), (0, class_map.height)]
    return all(math.dist(to_map @ corner, corner) < 0.01 for corner in corners)


class _Regions(NamedTuple):
    """Regions in columns."""

    polygons: np.ndarray
    """(N,) shapely polygons."""
    classes: np.ndarray
    """(N,) int32."""
    last_pixels: np.ndarray
    """(N,) int64: row-major index in the map."""
    score_sums: np.ndarray
    """(N,) float64: sums of stored values."""
    score_counts: np.ndarray
    """(N,) int64: pixels with a score."""


@dataclass
class _OpenRegion:
    """A region that continues in the next strip."""

    class_id: int
    last_pixel: int
    score_sum: float
    score_count: int
    pieces: list[shapely.Polygon]
    straight: list[np.ndarray]
    """Corners of pieces on seams that are not corners of the region, (n, 2) each."""

    def add(self, other: "_OpenRegion") -> None:
        """Merge a region."""
        self.last_pixel = max(self.last_pixel, other.last_pixel)
        self.score_sum += other.score_sum
        self.score_count += other.score_count
        self.pieces += other.pieces
        self.straight += other.straight

    def polygon(self) -> shapely.Polygon:
        """Return the union of the pieces."""
        # Normalised rings start at their minimum corner, which is never among those to omit.
        union = shapely.normalize(shapely.coverage_union_all(self.pieces))
        kind, points, (rings, polygons) = shapely.to_ragged_array([union])
        straight = np.concatenate(self.straight)
        span = points[:, 0].max() + 1
        # Integers far below 2**53.
        kept = ~np.isin(points @ [1, span], straight @ [1, span])
        before = np.concatenate([[0], np.cumsum(kept)])
        # Again, because the order of holes depends on their corners.
        return shapely.normalize(
            shapely.from_ragged_array(kind, points[kept], (before[rings], polygons))[0]
        )


def _regions(
    source: ClassMap, strips: Iterable[tuple[int, np.ndarray]], score_map: ScoreMap | None
) -> Iterator[_Regions]:
    """Yield the regions of a map in pixel coordinates, in the order of their last pixels."""
    joiner = _Joiner(source.width)
    for (row_off, classes), below in _with_row_below(strips, source.width):
        scores = score_map.read(row_off, classes) if score_map else None
        finished = joiner.add(row_off, classes, below, scores)
        yield take(finished, np.argsort(finished.last_pixels))


def _with_row_below(
    strips: Iterable[tuple[int, np.ndarray]], width: int
) -> Iterator[tuple[tuple[int, np.ndarray], np.ndarray]]:
    """Yield strips with the row below each; -2 below the last."""
    strips = iter(strips)
    strip = next(strips)
    for following in strips:
        yield strip, following[1][0]
        strip = following
    yield strip, np.full(width, _OUTSIDE, np.int32)


class _Joiner:
    """Joins the regions of strips into regions of a map of ``width`` columns."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._above = np.full(width, _OUTSIDE, np.int32)
        self._open: list[_OpenRegion] = []
        # Index of the open region above each column; arbitrary elsewhere.
        self._open_above = np.zeros(width, np.int64)

    def add(
        self,
        row_off: int,
        classes: np.ndarray,
        below: np.ndarray,
        scores: tuple[np.ndarray, np.ndarray] | None,
    ) -> _Regions:
        """Add the next strip; return the regions that end in it.

        Args:
            row_off: Its first row.
            classes: (h, width) class indexes, -1 for none.
            below: (width,) classes of the row below, -2 outside the map.
            scores: (h, width) stored scores and their validity.
        """
        labels, count = label(classes)
        pieces, straight = self._pieces(row_off, labels, count, classes, below, scores)
        # A graph of the open regions and the pieces, with edges where a seam crosses a region.
        number_open = len(self._open)
        crossed = (classes[0] >= 0) & (classes[0] == self._above)
        parts = components(
            number_open + count, self._open_above[crossed], labels[0, crossed] + number_open
        )
        number_parts = parts.max(initial=-1) + 1
        crossing = (classes[-1] >= 0) & (classes[-1] == below)
        parts_below = parts[labels[-1, crossing] + number_open]
        continues = np.zeros(number_parts, bool)
        continues[parts_below] = True
        joined = continues.copy()
        joined[parts[:number_open]] = True

        regions: dict[int, _OpenRegion] = {}
        complete = ~joined[parts[number_open:]]
        held = np.flatnonzero(~complete)
        columns = (column.tolist() for column in take(pieces, held))
        starts = np.searchsorted(straight[:, 0], [held, held + 1]).T
        opened = (
            _OpenRegion(class_id, last, score_sum, number, [polygon], [straight[first:end, 1:]])
            for (polygon, class_id, last, score_sum, number), (first, end) in zip(
                zip(*columns, strict=True), starts, strict=True
            )
        )
        numbers = np.concatenate([parts[:number_open], parts[number_open:][held]])
        for number, region in zip(numbers.tolist(), chain(self._open, opened), strict=True):
            known = regions.setdefault(number, region)
            if known is not region:
                # Extend the longer list, to avoid copying a region of many rows in each strip.
                if len(known.pieces) < len(region.pieces):
                    known, region = region, known
                    regions[number] = known
                known.add(region)

        ended = [region for number, region in regions.items() if not continues[number]]
        self._open = [region for number, region in regions.items() if continues[number]]
        index = np.zeros(number_parts, np.int64)
        index[[number for number in regions if continues[number]]] = np.arange(len(self._open))
        self._open_above[crossing] = index[parts_below]
        self._above = classes[-1]
        return join([take(pieces, complete), _as_columns(ended)])

    def _pieces(
        self,
        row_off: int,
        labels: np.ndarray,
        count: int,
        classes: np.ndarray,
        below: np.ndarray,
        scores: tuple[np.ndarray, np.ndarray] | None,
    ) -> tuple[_Regions, np.ndarray]:
        """Return the regions of one strip on its own, and the corners of :func:`add_junctions`."""
        framed = np.full((len(classes) + 2, self._width + 2), _OUTSIDE, np.int32)
        framed[1:-1, 1:-1] = classes
        framed[0, 1:-1], framed[-1, 1:-1] = self._above, below
        inside = labels >= 0
        polygons = np.empty(count, object)
        for geometry, number in features.shapes(labels, mask=inside, connectivity=4):
            polygons[int(number)] = shape(geometry)
        straight = np.empty((0, 3))
        if count:
            polygons, straight = add_junctions(polygons, framed)
            polygons = shapely.transform(polygons, lambda points: points + [0, row_off])
            straight += [0, 0, row_off]
        numbers = labels[inside]
        kinds, last = np.empty(count, np.int32), np.empty(count, np.int64)
        kinds[numbers] = classes[inside]
        last[numbers] = np.flatnonzero(inside) + row_off * self._width  # the last one wins
        sums, counts = np.zeros(count), np.zeros(count, np.int64)
        if scores:
            values, valid = scores
            sums = np.bincount(labels[valid], values[valid], minlength=count)
            counts = np.bincount(labels[valid], minlength=count)
        return _Regions(shapely.normalize(polygons), kinds, last, sums, counts), straight


def _as_columns(regions: Sequence[_OpenRegion]) -> _Regions:
    """Return a table of regions that ended."""
    polygons = np.empty(len(regions), object)
    polygons[:] = [region.polygon() for region in regions]
    return _Regions(
        polygons,
        np.array([region.class_id for region in regions], np.int32),
        np.array([region.last_pixel for region in regions], np.int64),
        np.array([region.score_sum for region in regions], np.float64),
        np.array([region.score_count for region in regions], np.int64),
    )


def add_junctions(polygons: np.ndarray, framed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add vertices where three regions meet on straight edges, which GDAL omits.

    With them, neighbours have the same vertices along their common edge, as required by tools for
    coverages (validation, simplification) and by the union of pieces across a seam.

    Args:
        polygons: (N,) polygons in pixel coordinates (column, row), edges along pixel edges.
        framed: (H + 2, W + 2) their strip, framed with the adjacent pixels.

    Returns:
        The polygons; and (M, 3) polygon, column and row of corners at the ends of the strip where
        the map has a straight edge, by polygon.
    """
    kind, corners, (ring_starts, polygon_starts) = shapely.to_ragged_array(polygons)
    step = np.zeros_like(corners)
    step[:-1] = np.diff(corners, axis=0)
    step[ring_starts[1:] - 1] = 0  # from the end of a ring to the next ring
    length = np.abs(step).sum(axis=1).astype(np.int64).clip(min=1)
    edge = np.repeat(np.arange(len(corners)), length)
    along = np.arange(len(edge)) - np.repeat(np.cumsum(length) - length, length)
    points = corners[edge] + np.sign(step)[edge] * along[:, np.newaxis]
    col, row = points.astype(np.int64).T
    above_left, above_right = framed[row, col], framed[row, col + 1]
    below_left, below_right = framed[row + 1, col], framed[row + 1, col + 1]
    across = (above_left != above_right) | (below_left != below_right)
    upright = (above_left != below_left) | (above_right != below_right)
    is_corner = along == 0
    kept = is_corner | np.where(step[edge, 0] != 0, across, upright)
    points_before = np.concatenate([[0], np.cumsum(kept)])
    edges_before = np.concatenate([[0], np.cumsum(length)])
    at_end = (row == 0) | (row == len(framed) - 2)
    straight = np.flatnonzero(is_corner & at_end & across & ~upright)
    polygon = np.searchsorted(ring_starts[polygon_starts], edge[straight], side="right") - 1
    ring_starts = points_before[edges_before[ring_starts]]
    return (
        shapely.from_ragged_array(kind, points[kept], (ring_starts, polygon_starts)),
        np.column_stack([polygon, points[straight]]),
    )


# Tables and files


def _simplified(
    regions: Iterator[_Regions], source: ClassMap, tolerance: float
) -> Iterator[_Regions]:
    """Yield regions in the CRS of the map, simplified together with a tolerance above 0."""
    regions = (
        part._replace(polygons=apply_affine(part.polygons, source.transform)) for part in regions
    )
    if not tolerance:
        yield from regions
        return
    joined = join(list(regions))
    polygons = shapely.coverage_simplify(joined.polygons, tolerance, simplify_boundary=False)
    yield joined._replace(polygons=polygons)


def _tables(
    regions: Iterator[_Regions], source: ClassMap, score_map: ScoreMap | None
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Yield tables of 20,000 rows, except the last, and the bounds (n, 4) of their polygons."""
    bounds = grid_bounds(source)
    for part in regroup(regions, _BATCH):
        names = [source.name_of(class_id) for class_id in part.classes.tolist()]
        columns = {"class_id": pa.array(part.classes), "class_name": pa.array(names, pa.string())}
        if score_map:
            means = score_map.means(part.score_sums, part.score_counts, part.classes)
            columns["score"] = pa.array(means, from_pandas=True)  # NaN becomes null
        for name, measure in (("area_m2", areas_m2), ("perimeter_m", perimeters_m)):
            columns[name] = pa.array(measure(part.polygons, source.crs, bounds), from_pandas=True)
        columns[GEOMETRY] = pa.array(shapely.to_wkb(part.polygons), pa.binary())
        schema = _schema(score_map is not None)
        yield pa.record_batch(list(columns.values()), schema), shapely.bounds(part.polygons)


def _schema(with_scores: bool) -> pa.Schema:
    fields = [("class_id", pa.int32()), ("class_name", pa.string())]
    if with_scores:
        fields.append(("score", pa.float64()))
    fields += [("area_m2", pa.float64()), ("perimeter_m", pa.float64()), (GEOMETRY, pa.binary())]
    return pa.schema(fields)
