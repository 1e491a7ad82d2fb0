"""Areas, perimeters and pixel sizes on the ground, in metres.

Planar where the projection keeps them within 0.6 % (UTM and national grids where they are used, and
areas in equal-area projections), else on the ellipsoid of the CRS.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio import Affine

NO_AREAS = "no CRS with a known unit"
_PLANAR_TOLERANCE = 0.006
_EDGE = 1e4
"""Longest edge on the ellipsoid in metres; longer ones are densified."""
_FARTHEST = 1e9
"""Largest coordinate in metres; polygons beyond it are outside the domain of any projection."""
_STEP = 1e3
"""Metres on both sides of a point for the scale there."""
_NODES = 257
"""Rows and columns where the pixel areas of a raster are computed; others are interpolated."""


def horizontal_crs(crs: Any) -> CRS | None:
    """Return the horizontal part of a CRS: 2-D, without its transformation to WGS 84 or heights.

    Args:
        crs: CRS in any form pyproj accepts, or None.
    """
    return None if crs is None else _horizontal(CRS.from_user_input(crs))


def full_turn(crs: CRS) -> float:
    """Return a full circle in units of a geographic CRS."""
    return 2 * math.pi / crs.axis_info[0].unit_conversion_factor


def in_units(metres: float, crs: CRS) -> float:
    """Return a length in units of a horizontal CRS; in a geographic one, along the equator."""
    if crs.is_geographic:
        return metres / crs.ellipsoid.semi_major_metre / (2 * math.pi) * full_turn(crs)
    return metres / crs.axis_info[0].unit_conversion_factor


def central_longitude(crs: CRS) -> float:
    """Return the longitude in turns around which a projection is made; 0 if it has none."""
    for parameter in crs.coordinate_operation.params if crs.coordinate_operation else ():
        if parameter.name.startswith("Longitude of"):
            return parameter.value * parameter.unit_conversion_factor / (2 * math.pi)
    return 0.0


def has_areas(crs: CRS | None) -> bool:
    """Whether a CRS has areas in square metres: on the earth, or in a plane with a known unit.

    A projection that PROJ does not know has none.
    """
    crs = horizontal_crs(crs)
    if crs is None or crs.is_geographic or crs.is_projected:
        return crs is not None and _is_known(crs)
    axes = crs.axis_info[:2]
    known = all(axis.unit_name not in ("", "unknown") for axis in axes)
    plane = crs.is_engineering and crs.coordinate_system.name == "cartesian"
    return plane and len(axes) == 2 and known


def areas_m2(
    geometries: np.ndarray, crs: CRS | None, bounds: Sequence[float] | None = None
) -> np.ndarray:
    """Return the areas of polygons in square metres.

    On the ellipsoid, unless they are planar (see the module) in all of ``bounds``: in a geographic
    CRS and in Mercator and equidistant cylindrical projections via the cylindrical equal-area
    projection, where parallels and meridians, the edges of pixels, stay straight, so that areas are
    exact for edges of any length; in others as areas on the authalic sphere (Snyder, "Map
    Projections: A Working Manual", 1987, p. 16), with edges in pieces of at most 10 km.

    Args:
        geometries: (N,) shapely polygons or multipolygons.
        crs: Their CRS, or one with heights or a transformation to WGS 84.
        bounds: Left, bottom, right, top of the layer they belong to, so that parts of a layer are
            measured alike; None for their own.

    Returns:
        (N,) float64, NaN if the CRS has no areas (:func:`has_areas`), and for polygons that extend
        beyond the domain of the projection.
    """
    crs = horizontal_crs(crs)
    if not has_areas(crs):
        return np.full(len(geometries), np.nan)
    if not len(geometries):
        return np.zeros(0)
    if _is_cylindrical(crs):

        def project(points: np.ndarray) -> np.ndarray:
            return np.column_stack(_to_equal_area(crs, *points.T))

        return shapely.area(shapely.transform(geometries, project))
    geometries, far = _within_reach(geometries, crs)
    if _is_planar(crs, _bounds(geometries, bounds)):
        return np.where(far, np.nan, shapely.area(geometries) * _square_metres(crs))
    return np.where(far, np.nan, _areas_on_sphere(geometries, crs))


def perimeters_m(
    geometries: np.ndarray, crs: CRS | None, bounds: Sequence[float] | None = None
) -> np.ndarray:
    """Return the lengths of the rings of polygons, holes included, in metres.

    On the ellipsoid, unless they are planar (see the module) in all of ``bounds``: sums of
    geodesics between points at most 0.1 degrees (10 km in projections) apart.

    Args:
        geometries: (N,) shapely polygons, none empty.
        crs: See :func:`areas_m2`.
        bounds: See :func:`areas_m2`.

    Returns:
        (N,) float64, NaN as in :func:`areas_m2`.
    """
    crs = horizontal_crs(crs)
    if not has_areas(crs) or not len(geometries):
        return np.full(len(geometries), np.nan)
    geometries, far = _within_reach(geometries, crs)
    if not _is_cylindrical(crs) and _is_planar(crs, _bounds(geometries, bounds), lengths=True):
        metres = shapely.length(geometries) * crs.axis_info[0].unit_conversion_factor
        return np.where(far, np.nan, metres)
    step = full_turn(crs) / 3600 if crs.is_geographic else in_units(_EDGE, crs)
    _, points, (ring_starts, polygon_starts) = shapely.to_ragged_array(
        shapely.segmentize(geometries, step)
    )
    lon, lat = _to_degrees(crs, *points.T)
    off = ~(np.isfinite(lon) & np.isfinite(lat))
    lon, lat = np.where(off, 0, lon), np.where(off, 0, lat)
    lengths = np.zeros(len(points))
    lengths[:-1] = crs.get_geod().inv(lon[:-1], lat[:-1], lon[1:], lat[1:])[2]
    lengths[off] = np.nan
    lengths[ring_starts[1:] - 1] *= 0  # from the end of a ring to the next ring
    sums = np.add.reduceat(lengths, ring_starts[polygon_starts[:-1]])
    return np.where(far, np.nan, sums)


def pixel_areas(
    grid: Any, row_off: int, rows: int, col_off: int = 0, cols: int | None = None
) -> np.ndarray:
    """Return the areas of the pixels of some rows in square metres, as :func:`areas_m2`.

    Args:
        grid: Object with ``crs`` (pyproj), ``transform``, ``height`` and ``width``, such as a class
            map.
        row_off: First row.
        rows: Number of rows.
        col_off: First column.
        cols: Number of columns; None for all from ``col_off``.

    Returns:
        (rows, 1) float64 if all pixels of a row are equal, else (rows, cols); NaN if the CRS has
        no areas, 0 for pixels with centres beyond the domain of the projection.
    """
    crs, transform = horizontal_crs(grid.crs), grid.transform
    if not has_areas(crs):
        return np.full((rows, 1), np.nan)
    cols = grid.width - col_off if cols is None else cols
    if _is_cylindrical(crs):
        cols = 1 if transform.is_rectilinear else cols
        return _areas_of_quadrangles(crs, transform, row_off, rows, col_off, cols)
    if _is_planar(crs, grid_bounds(grid), everywhere=True):
        return np.full((rows, 1), abs(transform.determinant) * _square_metres(crs))
    nodes = _area_nodes(crs, transform, grid.height, grid.width)
    return _interpolated(nodes, crs, transform, row_off, rows, col_off, cols)


def metres_per_pixel(height: int, width: int, transform: Affine, crs: Any) -> float | None:
    """Return the ground size of a pixel: the square root of the mean pixel area.

    Args:
        height: Rows.
        width: Columns.
        transform: Of the raster.
        crs: CRS in any form pyproj accepts, or None.

    Returns:
        Metres; None without a georeference, and for a CRS without areas (:func:`has_areas`).
    """
    if crs is None or transform.is_identity:
        return None
    corners = [transform * corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]
    (area,) = areas_m2(np.array([shapely.Polygon(corners)]), crs)
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
    crs = horizontal_crs(crs)
    if not (crs.is_geographic or crs.is_projected) or not _is_known(crs):
        return None
    lon, lat = _to_degrees(crs, np.array([x - reach, x + reach]), np.array([y, y]))
    if not np.isfinite([lon, lat]).all():
        return None
    metres = crs.get_geod().inv(lon[0], lat[0], lon[1], lat[1])[2]
    return metres / (2 * reach) if metres > 0 else None


def grid_bounds(grid: Any) -> tuple[float, float, float, float]:
    """Return left, bottom, right, top of an object with ``transform``, ``height`` and ``width``."""
    corners = [(0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)]
    x, y = np.array([grid.transform @ corner for corner in corners]).T.tolist()
    return min(x), min(y), max(x), max(y)


# ------------------------------------------------------------------------------------ the CRS
@functools.lru_cache(maxsize=64)
def _horizontal(crs: CRS) -> CRS:
    while crs.is_bound or crs.is_compound:
        crs = crs.source_crs if crs.is_bound else crs.sub_crs_list[0]
    return crs.to_2d() if crs.is_geographic or crs.is_projected else crs


@functools.lru_cache(maxsize=64)
def _is_known(crs: CRS) -> bool:
    try:
        return not crs.is_derived or bool(_transformer(crs, crs.source_crs))
    except ProjError:
        return False


def _is_cylindrical(crs: CRS) -> bool:
    """Whether parallels and meridians are horizontal and vertical lines."""
    if crs.is_geographic:
        return not crs.is_derived  # such as a rotated pole
    method = crs.coordinate_operation.method_name if crs.coordinate_operation else ""
    named = any(kind in method for kind in ("Mercator", "Equidistant Cylindrical"))
    return named and not any(kind in method for kind in ("Transverse", "Oblique"))


def _bounds(geometries: np.ndarray, bounds: Sequence[float] | None) -> tuple[float, ...]:
    return tuple(shapely.total_bounds(geometries).tolist() if bounds is None else bounds)


def _is_planar(
    crs: CRS, bounds: tuple[float, ...], lengths: bool = False, everywhere: bool = False
) -> bool:
    """Whether areas, or lengths in all directions, are planar in bounds, see the module.

    Beyond the edge of the earth nothing is planar, if that counts (``everywhere``).
    """
    if not crs.is_projected:
        return not crs.is_geographic
    # Chips of one image share the answer for the cells of 10 km that they lie in.
    cell, (left, bottom, right, top) = in_units(_EDGE, crs), bounds
    cells = *np.floor([left / cell, bottom / cell]), *np.ceil([right / cell, top / cell])
    return _is_planar_in(crs, tuple(float(edge * cell) for edge in cells), lengths, everywhere)


@functools.lru_cache(maxsize=256)
def _is_planar_in(crs: CRS, bounds: tuple[float, ...], lengths: bool, everywhere: bool) -> bool:
    left, bottom, right, top = bounds
    x, y = np.meshgrid(np.linspace(left, right, 5), np.linspace(bottom, top, 5))
    along_x, along_y = _ground_vectors(crs, x.ravel(), y.ravel())
    if lengths:
        unit = crs.axis_info[0].unit_conversion_factor
        diagonals = (along_x + along_y) / math.sqrt(2), (along_x - along_y) / math.sqrt(2)
        scales = np.linalg.norm([along_x, along_y, *diagonals], axis=-1) / unit
    else:
        scales = np.linalg.norm(np.cross(along_x, along_y), axis=-1) / _square_metres(crs)
    known = scales[np.isfinite(scales)]
    if everywhere and known.size < scales.size:
        return False
    return bool(len(known) and (np.abs(known - 1) <= _PLANAR_TOLERANCE).all())


def _square_metres(crs: CRS) -> float:
    return math.prod(axis.unit_conversion_factor for axis in crs.axis_info[:2])


def _to_degrees(crs: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude in degrees, infinite beyond the domain of the projection."""
    if not crs.is_derived:
        to_degrees = math.degrees(crs.axis_info[0].unit_conversion_factor)
        return np.asarray(x) * to_degrees, np.asarray(y) * to_degrees
    transformer = _transformer(crs, crs.source_crs)
    lon, lat = transformer.transform(x, y)
    if crs.is_projected and not _is_cylindrical(crs):
        # Some projections repeat the earth beyond their edge.
        again = transformer.transform(lon, lat, direction="INVERSE")
        unit = crs.axis_info[0].unit_conversion_factor
        with np.errstate(invalid="ignore"):  # infinite
            off = ~(np.hypot(again[0] - x, again[1] - y) * unit < _STEP)
        lon, lat = np.where(off, np.inf, lon), np.where(off, np.inf, lat)
    return _to_degrees(crs.source_crs, lon, lat)


@functools.lru_cache(maxsize=64)
def _transformer(source: CRS, target: CRS) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


# ------------------------------------------------------------------------- on the ellipsoid
def _to_equal_area(crs: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project points of a cylindrical CRS to the cylindrical equal-area projection."""
    shape, x, y = np.shape(x), np.ravel(x), np.ravel(y)
    ellipsoid = crs.ellipsoid
    # "+over" does not wrap longitudes beyond 180 degrees.
    equal_area = CRS.from_proj4(
        f"+proj=cea +a={ellipsoid.semi_major_metre} +b={ellipsoid.semi_minor_metre} +units=m +over"
    )
    transform = _transformer(crs, equal_area).transform
    if crs.is_geographic:  # global grids may have pixels centred at the poles
        y = np.clip(y, -full_turn(crs) / 4, full_turn(crs) / 4)
    easting, northing = transform(x, y)
    if crs.is_projected and len(x):
        # Projections wrap longitudes: undo it, since eastings are linear in each other.
        turn = 2 * math.pi * ellipsoid.semi_major_metre
        (start, end), _ = transform([x[0], x[0] + 1], [y[0], y[0]])
        step = (end - start) - turn * round((end - start) / turn)
        easting += turn * np.rint((start + step * (x - x[0]) - easting) / turn)
    return easting.reshape(shape), northing.reshape(shape)


def _areas_of_quadrangles(
    crs: CRS, transform: Affine, row_off: int, rows: int, col_off: int, cols: int
) -> np.ndarray:
    """Return the areas (rows, cols) of pixels in a cylindrical CRS."""
    col, row = np.meshgrid(
        np.arange(col_off, col_off + cols + 1.0), np.arange(row_off, row_off + rows + 1.0)
    )
    x, y = _to_equal_area(
        crs,
        transform.a * col + transform.b * row + transform.c,
        transform.d * col + transform.e * row + transform.f,
    )
    # Half the cross product of the diagonals, which is accurate for small pixels far from the
    # origin, unlike the shoelace formula.
    falling = x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]
    rising = x[:-1, 1:] - x[1:, :-1], y[:-1, 1:] - y[1:, :-1]
    areas = np.abs(falling[0] * rising[1] - falling[1] * rising[0]) / 2
    return np.nan_to_num(areas)  # 0 beyond the poles


def _on_sphere(crs: CRS, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return points (N, 3) in metres on the authalic sphere, NaN beyond the domain.

    Areas on it equal those on the ellipsoid (Snyder 1987, equations 3-12, 3-13 and 3-18).
    """
    lon, lat = np.radians(_to_degrees(crs, x, y))
    a, b = crs.ellipsoid.semi_major_metre, crs.ellipsoid.semi_minor_metre
    e2 = 1 - (b / a) ** 2
    e = math.sqrt(e2)
    radius = a * math.sqrt((1 + (1 - e2) * (math.atanh(e) / e if e else 1)) / 2)
    with np.errstate(invalid="ignore"):  # infinite
        lat = (
            lat
            - (e2 / 3 + 31 * e2**2 / 180 + 59 * e2**3 / 560) * np.sin(2 * lat)
            + (17 * e2**2 / 360 + 61 * e2**3 / 1260) * np.sin(4 * lat)
            - 383 * e2**3 / 45360 * np.sin(6 * lat)
        )
        return radius * np.column_stack(
            [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
        )


def _ground_vectors(crs: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what one unit of x, and one of y, is on the ground at points: (N, 3) metres each."""
    step = in_units(_STEP, crs)
    ends = _on_sphere(
        crs,
        np.concatenate([x + step, x - step, x, x]),
        np.concatenate([y, y, y + step, y - step]),
    ).reshape(4, len(x), 3)
    return (ends[0] - ends[1]) / (2 * step), (ends[2] - ends[3]) / (2 * step)


def _within_reach(geometries: np.ndarray, crs: CRS) -> tuple[np.ndarray, np.ndarray]:
    """Replace polygons beyond :data:`_FARTHEST`, which cannot be densified; say which they are."""
    geometries = np.asarray(geometries, object)
    on_earth = crs.is_geographic or crs.is_projected
    limit = in_units(_FARTHEST, crs) if on_earth else math.inf
    far = (np.abs(shapely.bounds(geometries)) > limit).any(axis=1)
    near = geometries[~far]
    return np.where(far, near[0] if len(near) else shapely.box(0, 0, 1, 1), geometries), far


def _areas_on_sphere(geometries: np.ndarray, crs: CRS) -> np.ndarray:
    """Return the areas of polygons: sums of signed triangles with a point of each ring."""
    shapes = np.asarray(shapely.segmentize(geometries, in_units(_EDGE, crs)))
    owner = np.arange(len(geometries))
    for _ in range(2):  # collections of multipolygons
        shapes, index = shapely.get_parts(shapes, return_index=True)
        owner = owner[index]
    kept = (shapely.get_dimensions(shapes) == 2) & ~shapely.is_empty(shapes)
    rings, of_shape = shapely.get_rings(shapes[kept], return_index=True)
    if not len(rings):
        return np.zeros(len(geometries))
    of_geometry = owner[kept][of_shape]
    inner = shapely.get_coordinates(shapely.point_on_surface(shapely.polygons(rings)))
    centres = _on_sphere(crs, *inner.T)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points = _on_sphere(crs, *points.T)
    edge = np.flatnonzero(ring[:-1] == ring[1:])
    ring = ring[edge]
    first, second, centre = points[edge], points[edge + 1], centres[ring]
    radius = np.linalg.norm(centre, axis=1)
    # Differences, because products of nearly parallel vectors lose digits.
    volume = (np.cross(first - centre, second - centre) * centre).sum(axis=1)
    cosines = (first * second + second * centre + centre * first).sum(axis=1)
    excess = 2 * np.arctan2(volume, radius * (radius**2 + cosines))
    areas = np.abs(np.bincount(ring, excess * radius**2, len(rings)))
    holes = np.zeros(len(rings), bool)
    holes[1:] = of_shape[1:] == of_shape[:-1]
    return np.bincount(of_geometry, np.where(holes, -areas, areas), len(geometries))


def _pixel_area(crs: CRS, transform: Affine, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Return the areas of pixels with centres at (row, col), NaN beyond the domain."""
    x = transform.a * col + transform.b * row + transform.c
    y = transform.d * col + transform.e * row + transform.f
    area = np.linalg.norm(np.cross(*_ground_vectors(crs, x.ravel(), y.ravel())), axis=-1)
    return (area * abs(transform.determinant)).reshape(col.shape)


@functools.lru_cache(maxsize=8)
def _area_nodes(
    crs: CRS, transform: Affine, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows (m,), columns (n,) and areas (m, n) of pixels spread over a raster."""
    rows = np.linspace(0.5, height - 0.5, min(height, _NODES))
    cols = np.linspace(0.5, width - 0.5, min(width, _NODES))
    col, row = np.meshgrid(cols, rows)
    return rows, cols, _pixel_area(crs, transform, row, col)


def _interpolated(
    nodes: tuple[np.ndarray, np.ndarray, np.ndarray],
    crs: CRS,
    transform: Affine,
    row_off: int,
    rows: int,
    col_off: int,
    cols: int,
) -> np.ndarray:
    """Return the areas (rows, cols) of pixels from those of :func:`_area_nodes`."""
    node_rows, node_cols, areas = nodes
    row, col = np.arange(row_off, row_off + rows) + 0.5, np.arange(col_off, col_off + cols) + 0.5
    place = np.interp(row, node_rows, np.arange(len(node_rows)))
    above = np.floor(place).astype(int)
    below = np.minimum(above + 1, len(node_rows) - 1)
    weight = (place - above)[:, np.newaxis]

    def interpolate(values: np.ndarray) -> np.ndarray:
        used = {k: np.interp(col, node_cols, values[k]) for k in np.unique([above, below]).tolist()}
        upper, lower = (np.stack([used[k] for k in side.tolist()]) for side in (above, below))
        return upper + weight * (lower - upper)

    known = np.isfinite(areas)
    found = interpolate(np.where(known, areas, 0))
    if not known.all():
        share = interpolate(known.astype(float))
        at_edge = np.nonzero((share > 0) & (share < 1))
        if len(at_edge[0]):
            exact = _pixel_area(crs, transform, row[at_edge[0]], col[at_edge[1]])
            found[at_edge] = np.nan_to_num(exact)
    return found
