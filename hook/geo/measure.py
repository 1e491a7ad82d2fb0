"""Areas, perimeters and pixel sizes on the ground, in metres."""

import functools
import math
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Transformer
from rasterio import Affine


def areas_m2(geometries: np.ndarray, crs: CRS | None) -> np.ndarray:
    """Return the areas of polygons in square metres.

    Planar in a projected CRS. In a geographic CRS, and in a Mercator projection, where planar
    areas grow with latitude (twofold at 45 degrees), areas are measured on the ellipsoid via its
    cylindrical equal-area projection: parallels and meridians, the edges of pixels, stay straight
    in it, so the areas are exact for edges of any length.

    Args:
        geometries: (N,) shapely polygons.
        crs: Their CRS.

    Returns:
        (N,) float64, NaN without a CRS.
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
    """Return the lengths of the rings of polygons, holes included, in metres.

    Planar in a projected CRS. In a geographic CRS and in a Mercator projection: sums of geodesics
    between points at most 0.1 degrees (10 km in Mercator) apart, which follow the parallels.

    Args:
        geometries: (N,) shapely polygons, none empty.
        crs: Their CRS.

    Returns:
        (N,) float64, NaN without a CRS.
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
    lengths[ring_starts[1:] - 1] = 0  # from the end of a ring to the next ring
    return np.add.reduceat(lengths, ring_starts[polygon_starts[:-1]])


def pixel_areas(grid: Any, row_off: int, rows: int) -> np.ndarray:
    """Return the areas of the pixels of some rows in square metres, as :func:`areas_m2`.

    Args:
        grid: Object with ``crs`` (pyproj), ``transform`` and ``width``, such as a class map.
        row_off: First row.
        rows: Number of rows.

    Returns:
        (rows, 1) float64 if all pixels of a row are equal, else (rows, width); NaN without a CRS.
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
    # Half the cross product of the diagonals, which is accurate for small pixels far from the
    # origin, unlike the shoelace formula.
    falling = x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]
    rising = x[:-1, 1:] - x[1:, :-1], y[:-1, 1:] - y[1:, :-1]
    return np.abs(falling[0] * rising[1] - falling[1] * rising[0]) / 2


def metres_per_pixel(height: int, width: int, transform: Affine, crs: Any) -> float | None:
    """Return the ground size of a pixel: the square root of the mean pixel area.

    Args:
        height: Rows.
        width: Columns.
        transform: Of the raster.
        crs: CRS in any form pyproj accepts, or None.

    Returns:
        Metres; None without a georeference, and for a CRS that is not tied to the earth.
    """
    if crs is None or transform.is_identity:
        return None
    corners = [transform * corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]
    (area,) = areas_m2(np.array([shapely.Polygon(corners)]), CRS.from_user_input(crs))
    return math.sqrt(area / (height * width)) if np.isfinite(area) and area > 0 else None


def metres_per_unit(crs: CRS, x: float, y: float, reach: float) -> float | None:
    """Return the ground length of one unit of x at a point.

    Args:
        crs: The CRS.
        x: Of the point.
        y: Of the point.
        reach: Distance to measure on both sides along x, short, since geodesics leave parallels.

    Returns:
        Metres; None if the CRS is not tied to the earth, or cannot represent the point.
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
    """Whether lengths and areas are measured in the plane of a CRS."""
    method = crs.coordinate_operation.method_name if crs.coordinate_operation else ""
    mercator = "Mercator" in method and not any(
        kind in method for kind in ("Transverse", "Oblique")
    )
    return not crs.is_geographic and not mercator


def _square_metres(crs: CRS) -> float:
    return math.prod(axis.unit_conversion_factor for axis in crs.axis_info[:2])


@functools.lru_cache(maxsize=16)
def _to_equal_area(crs: CRS) -> Transformer:
    ellipsoid = crs.ellipsoid
    # "+over" does not wrap longitudes beyond 180 degrees.
    equal_area = CRS.from_proj4(
        f"+proj=cea +a={ellipsoid.semi_major_metre} +b={ellipsoid.semi_minor_metre} +units=m +over"
    )
    return Transformer.from_crs(crs, equal_area, always_xy=True)
