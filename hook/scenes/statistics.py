"""Reading class maps by rows, and areas per class."""

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import geopandas
import numpy as np
import rasterio
import shapely
from pyproj import CRS
from rasterio import features
from rasterio.windows import Window

from hook.errors import SceneError
from hook.geo.measure import grid_bounds, pixel_areas
from hook.geo.raster import Validity, open_dataset, reading, warn_unused_georeference
from hook.geo.styles import NO_CLASS, Colour, read_category_names
from hook.geo.vector import apply_affine, check_finite, read_vectors, reproject
from hook.progress import progress_bar

_LARGEST_CLASS = np.iinfo(np.int32).max
_STRIP_PIXELS = 1 << 21


class ClassMap:
    """A raster of class indexes, read in strips of whole rows.

    Args:
        path: Any raster with one integer band that GDAL opens.
        nodata: Nodata value; that of the file if None.
        class_names: Names of the values 0, 1, ...; those of the map if None, see
            :func:`hook.geo.styles.read_category_names`. Without names, any value from 0 is a class.
        warn_unplaced: Warn if the map is located by ground control points, RPCs or geolocation
            arrays only.

    Raises:
        SceneError: The file cannot be opened or is not a class map.
    """

    def __init__(
        self,
        path: str | Path,
        nodata: int | None = None,
        class_names: Sequence[str] | None = None,
        warn_unplaced: bool = False,
    ) -> None:
        self.path = str(path)
        self._unnamed: set[int] = set()
        self._source = open_dataset(path, SceneError)
        try:
            source = self._source
            if np.dtype(source.dtypes[0]).kind not in "iu" or source.count != 1:
                raise SceneError(
                    f"{path}: not a class map",
                    expected="one band of integers",
                    found=f"{source.count} band(s) of {source.dtypes[0]}",
                    remedy="use a class map, such as written by hook map",
                )
            self.height, self.width = source.height, source.width
            self.transform = source.transform
            self.rasterio_crs = source.crs
            self.crs = CRS.from_user_input(source.crs) if source.crs else None
            self.nodata = source.nodata if nodata is None else nodata
            if warn_unplaced:
                warn_unused_georeference(source, path, stacklevel=4)
            self._validity = Validity(source, [1], nodata)
            names = read_category_names(path) if class_names is None else class_names
            self.class_names = list(names or []) or None
        except BaseException:
            self.close()
            raise

    def name_of(self, class_id: int) -> str:
        """Return the name of a class, ``class_3`` without one; warn if other classes have names."""
        name = self.class_names[class_id] if self.class_names else ""
        if not name and self.class_names and class_id not in self._unnamed:
            self._unnamed.add(class_id)
            warnings.warn(
                f"{self.path}: value {class_id} has no name, and is named class_{class_id}",
                stacklevel=3,
            )
        return name or f"class_{class_id}"

    def read(
        self, row_off: int, rows: int, col_off: int = 0, cols: int | None = None
    ) -> np.ndarray:
        """Read a window, up to the right border if ``cols`` is None.

        Returns:
            (rows, cols) int32 class indexes, -1 for no class.

        Raises:
            SceneError: The file is damaged, or a value is not a class.
        """
        window = Window(col_off, row_off, self.width - col_off if cols is None else cols, rows)
        with reading(self.path, SceneError):
            values = self._source.read([1], window=window)
            valid = self._validity.read(values, window=window)[0]
        values = values[0]
        largest = len(self.class_names) - 1 if self.class_names else _LARGEST_CLASS
        wrong = valid & ((values < 0) | (values > largest))
        if wrong.any():
            raise SceneError(
                f"{self.path}: values that are no class",
                expected=f"0 to {largest}" if self.class_names else "0 or more",
                found=_some(np.unique(values[wrong]).tolist()),
                remedy="name all classes, or set the nodata value",
            )
        return np.where(valid, values.astype(np.int32), NO_CLASS)

    def strips(
        self, rows: int | None = None, label: str = "reading", progress: bool = False
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and classes (see :meth:`read`) of strips from top to bottom.

        Args:
            rows: Rows per strip; by default about 2 million pixels.
            label: Label of the progress bar.
            progress: Show it on a terminal.
        """
        rows = rows or max(1, _STRIP_PIXELS // self.width)
        with progress_bar(total=self.height, unit="row", desc=label, show=progress) as bar:
            for row_off in range(0, self.height, rows):
                size = min(rows, self.height - row_off)
                yield row_off, self.read(row_off, size)
                bar.update(size)

    def read_colours(self) -> dict[int, Colour] | None:
        """Return the colour table, of the side file or the map; None if there is none."""
        try:
            table = self._source.colormap(1)
        except ValueError:
            return None
        return {value: channels[:3] for value, channels in table.items() if channels[3]}

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> "ClassMap":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _some(values: list[int]) -> str:
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")


class ClassArea(NamedTuple):
    """Area of one class."""

    zone: object
    """Name of the zone; None for the whole map."""
    class_id: int
    class_name: str
    pixels: int
    area_m2: float
    """NaN in a map without a CRS, or whose CRS has no areas."""
    share: float
    """Of the valid area of the zone or map (of the pixels without a CRS); NaN if that is 0."""

    @property
    def area_ha(self) -> float:
        """The area in hectares."""
        return self.area_m2 / 1e4


def class_statistics(
    map_path: str | Path,
    *,
    zones: str | Path | geopandas.GeoDataFrame | None = None,
    zone_field: str | None = None,
    class_names: Sequence[str] | None = None,
    nodata: int | None = None,
    progress: bool = True,
    strip_rows: int | None = None,
) -> list[ClassArea]:
    """Measure the area of each class of a map, in total or by zone.

    Areas are sums of pixel areas on the ground in any CRS, see :func:`pixel_areas`. A pixel belongs
    to a zone if its centre is inside; zones may overlap, or extend beyond the map. The map is read
    in strips and may be larger than memory.

    Args:
        map_path: A raster of class indexes.
        zones: Polygons in any CRS: a vector file that GDAL reads, GeoParquet, or a GeoDataFrame.
        zone_field: Field with the names of the zones; their feature ids if None.
        class_names: Names of the classes; None for the category names of the map, else
            ``class_0``, ...
        nodata: Nodata value; that of the map if None.
        progress: Show a progress bar on a terminal.
        strip_rows: Rows read at a time; by default about 2 million pixels.

    Returns:
        A row per class, or per zone (in the order of the file) and class, including named classes
        without pixels.

    Raises:
        SceneError: The map is unreadable or not a class map, a value has no name, or the zones are
            unreadable, not polygons, or lack the field.
    """
    with ClassMap(map_path, nodata, class_names, warn_unplaced=True) as source:
        if zones is None:
            parts = ((classes, row) for row, classes in source.strips(strip_rows, "map", progress))
            sums = {None: _sum_classes(source, ((row, 0, part) for part, row in parts))}
        else:
            table = _read_zones(zones, zone_field, source)
            sums = {}
            with progress_bar(total=len(table), unit="zone", show=progress) as bar:
                for index, polygon in enumerate(table.geometry.to_numpy()):
                    parts = _parts_inside(source, polygon, strip_rows)
                    sums[index] = _sum_classes(source, parts)
                    bar.update()
            if not any(sums.values()):
                warnings.warn(
                    "the zones: none has a pixel of the map with a class; check their CRS",
                    stacklevel=2,
                )
        found = {class_id for by_class in sums.values() for class_id in by_class}
        found.update(i for i, name in enumerate(source.class_names or []) if name)
        names = {class_id: source.name_of(class_id) for class_id in sorted(found)}
        return [
            row
            for index, by_class in sums.items()
            for row in _rows(None if index is None else table.index[index], by_class, names)
        ]


def _sum_classes(
    source: ClassMap, parts: Iterator[tuple[int, int, np.ndarray]]
) -> dict[int, tuple[int, float]]:
    """Return pixels and square metres by class of parts (first row, first column, classes)."""
    pixels: dict[int, int] = {}
    areas: dict[int, list[float]] = {}
    for row_off, col_off, classes in parts:
        area = pixel_areas(source, row_off, len(classes), col_off, classes.shape[1])
        inside = classes >= 0
        ids, index, counts = np.unique(classes[inside], return_inverse=True, return_counts=True)
        sums = np.bincount(index, np.broadcast_to(area, classes.shape)[inside], len(ids))
        for class_id, count, total in zip(
            ids.tolist(), counts.tolist(), sums.tolist(), strict=True
        ):
            pixels[class_id] = pixels.get(class_id, 0) + count
            areas.setdefault(class_id, []).append(total)
    return {class_id: (pixels[class_id], math.fsum(areas[class_id])) for class_id in pixels}


def _rows(
    zone: object, by_class: dict[int, tuple[int, float]], names: dict[int, str]
) -> Iterator[ClassArea]:
    total_pixels = sum(pixels for pixels, _ in by_class.values())
    total_area = math.fsum(area for _, area in by_class.values())
    for class_id, name in names.items():
        pixels, area = by_class.get(class_id, (0, math.nan if math.isnan(total_area) else 0.0))
        if not total_pixels:
            share = math.nan
        else:
            share = pixels / total_pixels if math.isnan(total_area) else area / total_area
        yield ClassArea(zone, class_id, name, pixels, area, share)


def _read_zones(
    path: str | Path | geopandas.GeoDataFrame, zone_field: str | None, source: ClassMap
) -> geopandas.GeoDataFrame:
    """Read zones in pixel coordinates of the map, indexed by name."""
    if isinstance(path, geopandas.GeoDataFrame):
        path, table = "zones", path
    else:
        table = read_vectors(path, geometries=("Polygon",), index_by_id=True, error=SceneError)
    if zone_field is not None:
        fields = [name for name in table.columns if name != table.geometry.name]
        if zone_field not in fields:
            raise SceneError(
                f"{path}: no field {zone_field!r}",
                expected=f"one of {', '.join(fields)}",
                remedy="choose one of the fields (--zone-field)",
            )
        table = table.set_index(zone_field)
    shapes = table.geometry.to_numpy().copy()
    shapes[shapely.is_missing(shapes)] = shapely.Polygon()  # zones without pixels
    kinds = set(table.geom_type[~shapely.is_empty(shapes)])
    if not kinds or not kinds <= {"Polygon", "MultiPolygon"}:
        raise SceneError(
            f"{path}: zones without area",
            expected="polygons",
            found=", ".join(sorted(kinds)) or "no geometries",
            remedy="use a layer of polygons; buffer points and lines",
        )
    if (table.crs is None) != (source.crs is None):
        raise SceneError(
            f"{path}: cannot be overlaid on {source.path}",
            expected=f"a CRS in both or neither; CRS of the map: {source.crs and source.crs.name}",
            found=table.crs and table.crs.name,
            remedy="set the missing CRS",
        )
    shapes = shapely.force_2d(shapes)
    check_finite(shapes, f"{path}: zones", SceneError)
    if source.crs is not None:
        names = dict(what=f"{path}: zones", into="the CRS of the map", error=SceneError)
        shapes = reproject(shapes, table.crs, source.crs, grid_bounds(source), **names)
    pixels = apply_affine(shapes, ~source.transform)
    return table.set_geometry(pixels, crs=None)


def _parts_inside(
    source: ClassMap, polygon: shapely.Geometry, strip_rows: int | None
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the first row, first column and classes of strips of a zone, -1 outside it."""
    if polygon.is_empty:
        return
    left, top, right, bottom = polygon.bounds
    first_col, first_row = max(0, math.floor(left)), max(0, math.floor(top))
    cols = min(source.width, math.ceil(right)) - first_col
    last_row = min(source.height, math.ceil(bottom))
    if cols < 1:
        return
    step = strip_rows or max(1, _STRIP_PIXELS // cols)
    for row_off in range(first_row, last_row, step):
        rows = min(step, last_row - row_off)
        classes = source.read(row_off, rows, first_col, cols)
        outside = features.geometry_mask(
            [polygon], (rows, cols), rasterio.Affine.translation(first_col, row_off)
        )
        classes[outside] = NO_CLASS
        yield row_off, first_col, classes
