"""The regions of a class map as polygons."""

import contextlib
import importlib.util
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pyogrio
import rasterio
import shapely
from pyogrio.errors import DataSourceError
from pyproj import CRS, Transformer
from rasterio import features
from rasterio.errors import NotGeoreferencedWarning
from shapely.geometry import shape
from tqdm import tqdm

from hook.errors import SceneError
from hook.scenes.reader import GDAL_ERRORS
from hook.scenes.staging import StagedFiles
from hook.scenes.styles import read_category_names

DRIVERS = {".gpkg": "GPKG", ".parquet": "Parquet"}
_BATCH = 20_000


def polygonize(
    map_path: str | Path,
    output: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    nodata: int | None = None,
    min_area: float = 0,
    layer: str = "regions",
    overwrite: bool = False,
    progress: bool = True,
) -> int:
    """Write the 4-connected regions of a class map as polygons that cover it once.

    Fields: ``class_id``, ``class_name`` and ``area_m2``, see :func:`areas_m2`. The CRS is the
    map's. Edges follow pixel edges, so that neighbours share them exactly.

    Args:
        map_path: A raster of class indexes.
        output: ``.gpkg`` (GeoPackage) or ``.parquet`` (GeoParquet, needs pyarrow).
        class_names: Names of the classes; the map's category names if None, else ``class_0``, ...
        nodata: Value that is no class; the map's own nodata value if None.
        min_area: Regions below this many square metres, counted in pixels of the map's centre, are
            dissolved into their largest neighbour (a region with none but nodata around it stays).
        layer: Name of the GeoPackage's layer.
        overwrite: Replace the output if it exists.
        progress: Show a progress bar (on a terminal).

    Returns:
        The number of polygons.

    Raises:
        SceneError: The map is unreadable or no class map, a class has no name, the output exists
            or cannot be written, or its format is unknown.
    """
    output = Path(output)
    driver = DRIVERS.get(output.suffix.lower())
    if driver is None:
        raise SceneError(
            f"{output}: unknown vector format", expected=f"a name ending in {', '.join(DRIVERS)}"
        )
    if driver == "Parquet" and importlib.util.find_spec("pyarrow") is None:
        raise SceneError(
            f"{output}: GeoParquet needs pyarrow",
            remedy="install pyarrow, or write a GeoPackage (.gpkg)",
        )
    if not min_area >= 0:
        raise SceneError("min_area", expected="0 or more square metres", found=min_area)
    with StagedFiles(overwrite) as files, _without_clock(), warnings.catch_warnings():
        # A map without a CRS is told of below, once.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.filterwarnings("ignore", "'crs' was not provided")
        staged = files.add(output)
        try:
            with rasterio.open(map_path) as source:
                nodata = source.nodata if nodata is None else nodata
                if np.dtype(source.dtypes[0]).kind not in "iu" or source.count != 1:
                    raise SceneError(
                        f"{map_path}: not a class map",
                        expected="one band of integers",
                        found=f"{source.count} band(s) of {source.dtypes[0]}",
                    )
                names = class_names or read_category_names(map_path)
                crs = source.crs and CRS.from_user_input(source.crs)
                frames = _frames(_regions(source, nodata, min_area), crs, names, map_path)
                count = _write(frames, staged, driver, layer, progress)
        except (*GDAL_ERRORS, DataSourceError) as error:
            raise SceneError(
                f"{map_path}: cannot be turned into {output}", found=error.__cause__ or error
            ) from error
        files.commit()
    if crs is None:
        warnings.warn(f"{map_path}: no CRS, so its regions have no area", stacklevel=2)
    return count


@contextlib.contextmanager
def _without_clock() -> Iterator[None]:
    """Keep the time of writing out of GeoPackages: the same map gives the same bytes."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def areas_m2(geometries: np.ndarray, crs: CRS | None) -> np.ndarray:
    """Areas of polygons in square metres.

    In a projected CRS they are planar. In a geographic one, and in a Mercator projection, whose
    planar areas grow with latitude (twofold at 45 degrees), they are those on the ellipsoid,
    taken in its cylindrical equal-area projection: there parallels and meridians, the edges of
    pixels, stay straight, so the areas are exact however long an edge is. Without a CRS: NaN.

    Args:
        geometries: (N,) shapely polygons.
        crs: Their CRS.

    Returns:
        (N,) float64.
    """
    if crs is None:
        return np.full(len(geometries), np.nan)
    method = crs.coordinate_operation.method_name if crs.coordinate_operation else ""
    mercator = "Mercator" in method and not any(
        kind in method for kind in ("Transverse", "Oblique")
    )
    if not crs.is_geographic and not mercator:
        factor = math.prod(axis.unit_conversion_factor for axis in crs.axis_info[:2])
        return shapely.area(geometries) * factor
    ellipsoid = crs.ellipsoid
    # "+over" keeps longitudes beyond 180 degrees where they are.
    equal_area = CRS.from_proj4(
        f"+proj=cea +a={ellipsoid.semi_major_metre} +b={ellipsoid.semi_minor_metre} +units=m +over"
    )
    transformer = Transformer.from_crs(crs, equal_area, always_xy=True)

    def project(points: np.ndarray) -> np.ndarray:
        return np.column_stack(transformer.transform(*points.T))

    return shapely.area(shapely.transform(geometries, project))


def _regions(
    source: rasterio.DatasetReader, nodata: float | None, min_area: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield polygons in the map's CRS, at most 20,000 at a time, and their values."""
    classes = source.read(1)
    if classes.dtype not in (np.uint8, np.uint16):  # GDAL's polygons hold 32 bits at most
        classes = classes.astype(np.int32)
    smallest = math.ceil(min_area / _pixel_area(source)) if min_area else 0
    if smallest > 1:
        kept = None if nodata is None else classes != nodata
        classes = features.sieve(classes, smallest, mask=kept, connectivity=4)
    a, b, c, d, e, f = source.transform[:6]

    def place(corners: np.ndarray) -> np.ndarray:
        col, row = corners.T
        return np.column_stack([a * col + b * row + c, d * col + e * row + f])

    regions = (
        region
        for region in features.shapes(classes, connectivity=4)
        if nodata is None or region[1] != nodata
    )
    while batch := list(islice(regions, _BATCH)):
        polygons = np.array([shape(geometry) for geometry, _ in batch], dtype=object)
        polygons = shapely.transform(_add_junctions(polygons, classes), place)
        yield polygons, np.array([value for _, value in batch], dtype=np.int64)


def _add_junctions(polygons: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Add the corners where three regions meet to the straight edges that run through them.

    GDAL drops them, because they bend nothing; but only with them do neighbours have the same
    vertices along their common edge, which tools for coverages (validation, simplification that
    keeps shared edges shared) ask for.

    Args:
        polygons: (N,) polygons in pixel coordinates (column, row), edges along pixel edges.
        classes: (H, W) the map they are from.
    """
    kind, corners, (ring_starts, polygon_starts) = shapely.to_ragged_array(polygons)
    step = np.zeros_like(corners)
    step[:-1] = np.diff(corners, axis=0)
    step[ring_starts[1:] - 1] = 0  # a ring ends; what follows is another
    length = np.abs(step).sum(axis=1).astype(np.int64).clip(min=1)
    edge = np.repeat(np.arange(len(corners)), length)
    along = np.arange(len(edge)) - np.repeat(np.cumsum(length) - length, length)
    points = corners[edge] + np.sign(step)[edge] * along[:, np.newaxis]
    col, row = points.astype(np.int64).T
    above, below = (row - 1).clip(0), row.clip(max=classes.shape[0] - 1)
    left, right = (col - 1).clip(0), col.clip(max=classes.shape[1] - 1)
    horizontal = step[edge, 0] != 0
    junction = np.where(
        horizontal,
        (classes[above, left] != classes[above, right])
        | (classes[below, left] != classes[below, right]),
        (classes[above, left] != classes[below, left])
        | (classes[above, right] != classes[below, right]),
    )
    kept = (along == 0) | junction
    points_before = np.concatenate([[0], np.cumsum(kept)])
    edges_before = np.concatenate([[0], np.cumsum(length)])
    ring_starts = points_before[edges_before[ring_starts]]
    return shapely.from_ragged_array(kind, points[kept], (ring_starts, polygon_starts))


def _pixel_area(source: rasterio.DatasetReader) -> float:
    """Square metres of the pixel in the map's centre; 1 without a CRS."""
    row, col = source.height // 2, source.width // 2
    corners = [(col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1)]
    pixel = shapely.Polygon([source.transform @ corner for corner in corners])
    area = areas_m2(np.array([pixel]), source.crs and CRS.from_user_input(source.crs))[0]
    return 1.0 if math.isnan(area) else float(area)


def _frames(
    regions: Iterable[tuple[np.ndarray, np.ndarray]],
    crs: CRS | None,
    class_names: Sequence[str] | None,
    map_path: str | Path,
) -> Iterator[geopandas.GeoDataFrame]:
    """Yield tables of regions; at least one, which is empty where there is no region."""
    nothing = (np.array([], dtype=object), np.array([], dtype=np.int64))
    for polygons, ids in chain([nothing], regions):
        classes = np.unique(ids).tolist()
        nameless = [i for i in classes if i < 0 or (class_names and i >= len(class_names))]
        if nameless:
            raise SceneError(
                f"{map_path}: values that are no class",
                expected=f"0 to {len(class_names) - 1}" if class_names else "0 or more",
                found=nameless,
                remedy="name all classes, or name the nodata value",
            )
        names = {i: class_names[i] if class_names else f"class_{i}" for i in classes}
        yield geopandas.GeoDataFrame(
            {
                "class_id": ids.astype(np.int32),
                "class_name": np.array([names[index] for index in ids], dtype=object),
                "area_m2": areas_m2(polygons, crs),
            },
            geometry=geopandas.GeoSeries(polygons, crs=crs, dtype="geometry"),
        )


def _write(
    frames: Iterator[geopandas.GeoDataFrame],
    path: Path,
    driver: str,
    layer: str,
    progress: bool,
) -> int:
    """Write the tables to one layer; return the number of rows."""
    count = 0
    tables = []
    with tqdm(unit="polygon", disable=None if progress else True) as bar:
        for index, table in enumerate(frames):
            if driver == "Parquet":
                tables.append(table)
            else:
                table.to_file(
                    path,
                    driver=driver,
                    layer=layer,
                    mode="a" if index else "w",
                    engine="pyogrio",
                    geometry_type="Polygon",
                )
            count += len(table)
            bar.update(len(table))
    if tables:
        pandas.concat(tables).to_parquet(path, index=False)
    return count
