from types import SimpleNamespace

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from pyproj import CRS, Geod
from rasterio import Affine

from hook.geo.measure import (
    areas_m2,
    metres_per_pixel,
    metres_per_unit,
    perimeters_m,
    pixel_areas,
)

LOCAL = 'LOCAL_CS["plane",UNIT["metre",1]]'


@pytest.mark.parametrize("epsg", [4326, 4267, 3857, 3395])
def test_area_on_the_ellipsoid_equals_geographiclib_s(epsg):
    crs = CRS.from_epsg(epsg)
    box = shapely.box(-80, 40, -79, 43) if crs.is_geographic else shapely.box(9e6, 3e6, 91e5, 31e5)
    found = areas_m2(np.array([box]), crs)[0]
    # Geodesics are no parallels: only in short pieces do they follow the box's edges.
    dense = geopandas.GeoSeries([shapely.segmentize(box, box.length / 20000)], crs=crs)
    geod = Geod(a=crs.ellipsoid.semi_major_metre, b=crs.ellipsoid.semi_minor_metre)
    lonlat = dense.to_crs(crs.geodetic_crs).iloc[0]
    assert found == pytest.approx(abs(geod.geometry_area_perimeter(lonlat)[0]), rel=1e-7)


def test_area_of_the_whole_earth_and_across_the_date_line():
    boxes = np.array([shapely.box(-180, -90, 180, 90), shapely.box(179, 0, 182, 9)])
    earth, strip = areas_m2(boxes, CRS.from_epsg(4326))
    assert earth == pytest.approx(510_065_621.724e6, rel=1e-9)
    assert strip == pytest.approx(areas_m2(np.array([shapely.box(9, 0, 12, 9)]), CRS(4326))[0])


def test_pixel_areas_of_a_rotated_geographic_map():
    transform = rasterio.Affine.translation(10, 60) * rasterio.Affine.rotation(30)
    transform = transform * rasterio.Affine.scale(0.01, -0.02)
    corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
    pixels = [
        shapely.Polygon([transform @ (col + x, row + y) for x, y in corners])
        for row in (1, 2)
        for col in range(4)
    ]
    grid = SimpleNamespace(crs=CRS.from_epsg(4326), transform=transform, width=4)
    found = pixel_areas(grid, 1, 2)
    expected = areas_m2(np.array(pixels), grid.crs).reshape(2, 4)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("epsg", [4326, 4807, 3857])
def test_perimeter_on_the_ellipsoid_equals_geographiclib_s(epsg):
    crs = CRS.from_epsg(epsg)
    if crs.is_geographic:
        box = shapely.box(1, 48, 2.5, 49) - shapely.box(1.2, 48.2, 1.3, 48.4)
    else:
        box = shapely.box(2e5, 6e6, 3e5, 61e5)
    found = perimeters_m(np.array([box, box]), crs)
    geod = crs.get_geod()
    dense = geopandas.GeoSeries([shapely.segmentize(box, box.length / 20000)], crs=crs)
    degrees = np.degrees(crs.geodetic_crs.axis_info[0].unit_conversion_factor)
    lonlat = dense if crs.is_geographic else dense.to_crs(crs.geodetic_crs)
    lonlat = shapely.transform(lonlat.iloc[0], lambda points: points * degrees)
    rings = [lonlat.exterior, *lonlat.interiors]
    expected = sum(geod.geometry_length(ring) for ring in rings)
    assert found == pytest.approx([expected, expected], rel=1e-6)


def test_perimeter_in_a_projected_crs_and_in_none():
    box = shapely.box(0, 0, 30, 10) - shapely.box(1, 1, 2, 2)
    assert perimeters_m(np.array([box]), CRS.from_epsg(32645)) == pytest.approx([84])
    feet = perimeters_m(np.array([box]), CRS.from_epsg(2264))
    assert feet == pytest.approx([84 * 0.3048006096012192])
    assert np.isnan(perimeters_m(np.array([box]), None)).all()


def test_true_ground_size_of_degrees_and_of_mercator():
    degrees = metres_per_pixel(10, 10, Affine(1e-5, 0, 85, 0, -1e-5, 60), CRS("EPSG:4326"))
    # On the ellipsoid 111.41 km a degree of latitude there, and 55.80 of longitude.
    assert degrees == pytest.approx(np.sqrt(1.1141 * 0.5580), rel=1e-3)
    mercator = Affine(10, 0, 0, 0, -10, 8399738)  # at 60 degrees
    assert metres_per_pixel(9, 9, mercator, CRS("EPSG:3857")) == pytest.approx(5, rel=5e-3)


def test_what_has_no_place_has_no_size():
    assert metres_per_pixel(9, 9, Affine(10, 0, 0, 0, -10, 0), None) is None
    assert metres_per_pixel(9, 9, Affine.identity(), "EPSG:32633") is None


def test_a_unit_of_x_is_as_long_as_geographiclib_says():
    degree = metres_per_unit(CRS.from_epsg(4326), 85, 60, 0.01)
    assert degree == pytest.approx(Geod(ellps="WGS84").inv(84.995, 60, 85.005, 60)[2] * 100)
    # In Mercator by the cosine of the latitude; the scale of UTM is 0.9996 in its middle.
    assert metres_per_unit(CRS.from_epsg(3395), 0, 8362698.5, 10) == pytest.approx(0.5, rel=3e-3)
    assert metres_per_unit(CRS.from_epsg(32633), 5e5, 5e6, 10) == pytest.approx(1 / 0.9996)
    assert metres_per_unit(CRS(LOCAL), 0, 0, 1) is None
