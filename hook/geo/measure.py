"""Sizes on the ground: areas, perimeters, pixels. The one place that knows how a CRS measures."""

import functools
import math
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Transformer
from rasterio import Affine


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
    if _is_planar(crs):
        return shapely.area(geometries) * _square_metres(crs)
    transformer = _to_equal_area(crs)

    def project(points: np.ndarray) -> np.ndarray:
        return np.column_stack(transformer.transform(*points.T))

    return shapely.area(shapely.transform(geometries, project))


def perimeters_m(geometries: np.ndarray, crs: CRS | None) -> np.ndarray:
    """Lengths of the rings of polygons, holes included, in metres.

    In a projected CRS they are planar. In a geographic one and in a Mercator projection they are
    sums of geodesics on the ellipsoid between points of the edges at most 0.1 degrees apart (10 km
    in Mercator), so that edges along parallels count as such. Without a CRS: NaN.

    Args:
        geometries: (N,) shapely polygons, none empty.
        crs: Their CRS.

    Returns:
        (N,) float64.
    """
    if crs is None or not len(geometries):
        return np.full(len(geometries), np.nan)
    if _is_planar(crs):
        return shapely.length(geometries) * crs.axis_info[0].unit_conversion_factor
    to_degrees = math.degrees(crs.geodetic_crs.axis_info[0].unit_conversion_factor)
    step = 0.1 / to_degrees if crs.is_geographic else 1e4
    _, points, (ring_starts, polygon_starts) = shapely.to_ragged_array(
        shapely.segmentize(geometries, step)
    )
    if not crs.is_geographic:
        to_geographic = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
        points = np.column_stack(to_geographic.transform(*points.T))
    lon, lat = points.T * to_degrees
    lengths = np.zeros(len(points))
    lengths[:-1] = crs.get_geod().inv(lon[:-1], lat[:-1], lon[1:], lat[1:])[2]
    lengths[ring_starts[1:] - 1] = 0  # a ring ends; what follows is another
    return np.add.reduceat(lengths, ring_starts[polygon_starts[:-1]])


def pixel_areas(grid: Any, row_off: int, rows: int) -> np.ndarray:
    """Areas of the pixels of some rows in square metres, by the rules of :func:`areas_m2`.

    Args:
        grid: What has ``crs`` (pyproj's), ``transform`` and ``width``, such as a class map.
        row_off: First row.
        rows: Number of rows.

    Returns:
        (rows, 1) float64 where all pixels of a row are alike, else (rows, width); NaN without a
        CRS.
    """
    crs, transform = grid.crs, grid.transform
    if crs is None:
        return np.full((rows, 1), np.nan)
    if _is_planar(crs):
        return np.full((rows, 1), abs(transform.determinant) * _square_metres(crs))
    cols = 1 if transform.is_rectilinear else grid.width
    col, row = np.meshgrid(np.arange(cols + 1.0), np.arange(row_off, row_off + rows + 1.0))
    x, y = _to_equal_area(crs).transform(
        transform.a * col + transform.b * row + transform.c,
        transform.d * col + transform.e * row + transform.f,
    )
    # Half the cross product of the diagonals: unlike sums of products of coordinates, it keeps
    # all digits of small pixels far from the origin.
    falling = x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]
    rising = x[:-1, 1:] - x[1:, :-1], y[:-1, 1:] - y[1:, :-1]
    return np.abs(falling[0] * rising[1] - falling[1] * rising[0]) / 2


def metres_per_pixel(height: int, width: int, transform: Affine, crs: Any) -> float | None:
    """Give the side of a square as large as a pixel in the mean, on the ground, not in the CRS.

    Args:
        height: Rows.
        width: Columns.
        transform: The grid.
        crs: Its CRS, as pyproj understands it, or None.

    Returns:
        Metres; None without a CRS or a georeference, and for a CRS that is not of the earth.
    """
    if crs is None or transform.is_identity:
        return None
    corners = [transform * corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]
    (area,) = areas_m2(np.array([shapely.Polygon(corners)]), CRS.from_user_input(crs))
    return math.sqrt(area / (height * width)) if np.isfinite(area) and area > 0 else None


def metres_per_unit(crs: CRS, x: float, y: float, reach: float) -> float | None:
    """Give the length on the ground of one unit of x at a point.

    Args:
        crs: The CRS.
        x: Of the point.
        y: Of the point.
        reach: How far along x to measure, to both sides. Short: over a long way along a parallel
            the geodesic leaves it.

    Returns:
        Metres; None where the CRS is not of the earth, or does not hold the point.
    """
    if not (crs.is_geographic or crs.is_projected):
        return None
    to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    (one, other), heights = to_degrees.transform([x - reach, x + reach], [y, y])
    if not np.isfinite([one, other, *heights]).all():
        return None
    metres = crs.get_geod().inv(one, heights[0], other, heights[1])[2]
    return metres / (2 * reach) if metres > 0 else None


def _is_planar(crs: CRS) -> bool:
    """Whether lengths and areas are to be taken in the plane of a CRS."""
    method = crs.coordinate_operation.method_name if crs.coordinate_operation else ""
    mercator = "Mercator" in method and not any(
        kind in method for kind in ("Transverse", "Oblique")
    )
    return not crs.is_geographic and not mercator


def _square_metres(crs: CRS) -> float:
    return math.prod(axis.unit_conversion_factor for axis in crs.axis_info[:2])


@functools.lru_cache(maxsize=16)  # chips are measured one by one
def _to_equal_area(crs: CRS) -> Transformer:
    ellipsoid = crs.ellipsoid
    # "+over" keeps longitudes beyond 180 degrees where they are.
    equal_area = CRS.from_proj4(
        f"+proj=cea +a={ellipsoid.semi_major_metre} +b={ellipsoid.semi_minor_metre} +units=m +over"
    )
    return Transformer.from_crs(crs, equal_area, always_xy=True)
