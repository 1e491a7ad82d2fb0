"""Pixel grids, their windows, and the areas of splits."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import rasterio
import rasterio.features
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from hook.geo.measure import full_turn
from hook.geo.vector import reproject

# Relative tolerance for equal resolutions: tiles of one mosaic differ slightly in degrees.
SAME_RESOLUTION = 0.01
# CRS of pictures, whose coordinates are columns and, upwards, rows.
_PICTURES = 'LOCAL_CS["Pixels of a picture",UNIT["pixel",1]]'
# Maximum offset between pixels of the same grid, as a fraction of a pixel.
SAME_PIXEL = 0.01


@dataclass(frozen=True)
class Grid:
    """A pixel grid.

    Args:
        crs: WKT of the coordinate reference system.
        transform: Affine coefficients a, b, c, d, e, f (pixel to CRS).
        width: Columns.
        height: Rows.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    width: int
    height: int

    @classmethod
    def of_picture(cls, width: int, height: int) -> "Grid":
        """Return the grid of a picture without a georeference."""
        return cls(_PICTURES, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), width, height)

    @property
    def is_picture(self) -> bool:
        """Whether the grid is that of a picture without a georeference."""
        return self.crs == _PICTURES

    @property
    def affine(self) -> Affine:
        """The transform as an :class:`affine.Affine`."""
        return Affine(*self.transform)

    @property
    def res(self) -> tuple[float, float]:
        """Pixel width and height in CRS units."""
        a, b, _, d, e, _ = self.transform
        return math.hypot(a, d), math.hypot(b, e)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of the bounding box in CRS units."""
        corners = [(0, 0), (self.width, 0), (0, self.height), (self.width, self.height)]
        xs, ys = zip(*(self.affine * corner for corner in corners), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def window_affine(self, row: int, col: int) -> Affine:
        """Return the transform of a window that starts at (row, col)."""
        return self.affine * Affine.translation(col, row)

    def same_crs(self, other: "Grid") -> bool:
        """Return whether both grids have the same CRS."""
        return self.crs == other.crs or CRS.from_wkt(self.crs) == CRS.from_wkt(other.crs)

    def same_res(self, other: "Grid", tolerance: float = SAME_RESOLUTION) -> bool:
        """Return whether pixel sizes agree to a relative ``tolerance``."""
        pairs = zip(self.res, other.res, strict=True)
        return all(math.isclose(first, second, rel_tol=tolerance) for first, second in pairs)

    def is_like(self, other: "Grid") -> bool:
        """Return whether both grids have the same CRS and pixel size."""
        return self.same_crs(other) and self.same_res(other)

    def offset_of(self, other: "Grid") -> tuple[int, int] | None:
        """Return the (row, col) at which ``other`` starts; None if its pixels are not aligned."""
        if not self.same_crs(other):
            return None
        step = ~self.affine * other.affine
        size = max(other.width, other.height, 1)
        if (
            max(abs(step.a - 1), abs(step.e - 1), abs(step.b), abs(step.d)) * size > SAME_PIXEL
            or abs(step.c - round(step.c)) > SAME_PIXEL
            or abs(step.f - round(step.f)) > SAME_PIXEL
        ):
            return None
        return round(step.f), round(step.c)

    def describe(self) -> str:
        """Return CRS and pixel size for messages."""
        crs = CRS.from_wkt(self.crs)
        xres, yres = self.res
        size = f"{xres:.8g}" if math.isclose(xres, yres) else f"{xres:.8g} x {yres:.8g}"
        return f"{crs.to_string() if crs.to_epsg() else crs.to_wkt()[:60]}, pixel {size}"


@dataclass(frozen=True)
class Area:
    """The area of a split: a half-open box, or polygons.

    Args:
        crs: WKT.
        bounds: minx, miny, maxx, maxy; a pixel is in the box if its centre has
            ``minx <= x < maxx`` and ``miny <= y < maxy``, so that adjacent boxes are disjoint.
        polygons: Polygons that replace the box.
    """

    crs: str
    bounds: tuple[float, float, float, float]
    polygons: tuple[Any, ...] | None = None


@functools.lru_cache(maxsize=64)
def transformer(source: str, target: str) -> pyproj.Transformer:
    """Return the transformer between two CRSs (WKT), with axes in x, y order."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def grid_of(src: rasterio.DatasetReader) -> Grid | None:
    """Return the grid of an open raster, None if it is not georeferenced."""
    if src.crs is None or src.transform == Affine.identity():
        return None
    return Grid(src.crs.to_wkt(), tuple(src.transform)[:6], src.width, src.height)


def cover(
    window: tuple[int, int, int, int], chip_size: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """Yield the first (row, col) of the adjacent chips that cover a window."""
    row, col, height, width = window
    for top in range(row, row + height, chip_size[0]):
        for left in range(col, col + width, chip_size[1]):
            yield top, left


def clip(
    row: int, col: int, size: tuple[int, int], area: tuple[int, int, int, int]
) -> tuple[tuple[slice, slice], Window]:
    """Clip a chip to an area; return its slices in the chip and its window in the grid."""
    top, left = max(row, area[0]), max(col, area[1])
    bottom = max(min(row + size[0], area[0] + area[2]), top)
    right = max(min(col + size[1], area[1] + area[3]), left)
    part = (slice(top - row, bottom - row), slice(left - col, right - col))
    return part, Window(left, top, right - left, bottom - top)


def window_of_area(grid: Grid, area: Area) -> tuple[tuple[int, int, int, int], bool]:
    """Return the window of a grid that contains an area, and whether it is exactly that area."""
    straight = grid.transform[1] == 0 and grid.transform[3] == 0
    if area.polygons is None and straight and CRS.from_wkt(area.crs) == CRS.from_wkt(grid.crs):
        xs = grid.transform[2] + grid.transform[0] * (np.arange(grid.width) + 0.5)
        ys = grid.transform[5] + grid.transform[4] * (np.arange(grid.height) + 0.5)
        minx, miny, maxx, maxy = area.bounds
        xs = _nearest_turn(xs, area)
        cols = np.flatnonzero((minx <= xs) & (xs < maxx))
        rows = np.flatnonzero((miny <= ys) & (ys < maxy))
        if not len(cols) or not len(rows):
            return (0, 0, 0, 0), True
        if cols[-1] - cols[0] < len(cols):  # else at both ends of a map of the whole earth
            return (int(rows[0]), int(cols[0]), len(rows), len(cols)), True
    polygons = projected_polygons(area, grid)
    if not len(polygons):
        return (0, 0, 0, 0), False
    bounds = shapely.total_bounds(polygons)
    outline = shapely.box(*bounds)
    if not outline.intersects(shapely.box(*grid.bounds)):
        return (0, 0, 0, 0), False
    inverse = ~grid.affine
    corners = [inverse * corner for corner in outline.exterior.coords]
    # Two pixels of margin, because the sides of a reprojected box are curved.
    left = max(math.floor(min(x for x, _ in corners)) - 2, 0)
    top = max(math.floor(min(y for _, y in corners)) - 2, 0)
    right = min(math.ceil(max(x for x, _ in corners)) + 2, grid.width)
    bottom = min(math.ceil(max(y for _, y in corners)) + 2, grid.height)
    return (top, left, max(bottom - top, 0), max(right - left, 0)), False


_parse = functools.lru_cache(maxsize=64)(pyproj.CRS.from_wkt)


def _nearest_turn(xs: np.ndarray, area: Area) -> np.ndarray:
    """Shift longitudes by whole turns to those from the western side of an area on."""
    crs = _parse(area.crs)
    if not crs.is_geographic:
        return xs
    turn = full_turn(crs)
    return xs - turn * np.floor((xs - area.bounds[0]) / turn)


@functools.lru_cache(maxsize=1024)
def projected_polygons(area: Area, grid: Grid) -> np.ndarray:
    """Return the polygons of an area, or its box, in the CRS of a grid, at least near the grid."""
    polygons = (shapely.box(*area.bounds),) if area.polygons is None else area.polygons
    found = reproject(polygons, area.crs, grid.crs, grid.bounds, what="the area of the split")
    return found[~shapely.is_empty(found)]


def inside_area(grid: Grid, area: Area, row: int, col: int, size: tuple[int, int]) -> np.ndarray:
    """Return a (height, width) bool mask of the pixels of a chip inside an area.

    Args:
        grid: Grid of the scene.
        area: The area.
        row: First row of the chip in the grid.
        col: First column.
        size: (height, width) of the chip.
    """
    height, width = size
    affine = grid.window_affine(row, col)
    if area.polygons is not None:
        shapes = projected_polygons(area, grid)
        return rasterio.features.geometry_mask(shapes, (height, width), affine, invert=True)
    xs, ys = affine * np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    xs, ys = transformer(grid.crs, area.crs).transform(xs, ys)
    minx, miny, maxx, maxy = area.bounds
    xs = _nearest_turn(xs, area)
    return (minx <= xs) & (xs < maxx) & (miny <= ys) & (ys < maxy)
