from types import SimpleNamespace

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from pyproj import CRS, Geod, Transformer
from rasterio import Affine

from hook.geo.measure import (
    areas_m2,
    metres_per_pixel,
    metres_per_unit,
    perimeters_m,
    pixel_areas,
)

LOCAL = 'LOCAL_CS["plane",UNIT["metre",1]]'
ROTATED = "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +type=crs"

# CRS, longitude and latitude of a raster, and whether areas and lengths are planar there.
PLACES = [
    ("EPSG:4326", 9, 60, ""),
    ("EPSG:4979", 9, 60, ""),  # with ellipsoidal heights
    ("EPSG:4326+5773", 9, 60, ""),
    ("EPSG:4807", 5, 48, ""),  # grads from Paris
    ("+proj=longlat +ellps=bessel +towgs84=598,73,418 +type=crs", 15, 50, ""),
    ("+proj=longlat +over +type=crs", 190, 60, ""),
    (ROTATED, 10, 50, ""),
    ("EPSG:3857", 9, 60, ""),
    ("EPSG:3857", 180, 60, ""),
    ("EPSG:3857+5773", 9, 60, ""),
    ("EPSG:3395", 9, 60, ""),
    ("EPSG:3832", 180, 60, ""),  # Mercator of the Pacific
    ("+proj=merc +ellps=intl +towgs84=1,2,3 +type=crs", 9, 60, ""),
    ("+proj=merc +over +type=crs", 190, 60, ""),
    ("EPSG:32632", 9.5, 60, "areas, lengths"),
    ("EPSG:32632+5773", 9.5, 60, "areas, lengths"),
    ("EPSG:32633", 40, 60, ""),  # far from its zone
    ("+proj=utm +zone=33 +ellps=bessel +towgs84=598,73,418 +type=crs", 15, 50, "areas, lengths"),
    ("+proj=tmerc +lon_0=0 +type=crs", 40, 30, ""),
    ("EPSG:3078", -85, 44, "areas, lengths"),  # oblique Mercator
    ("+proj=omerc +lat_0=40 +lonc=10 +alpha=30 +type=crs", 60, 30, ""),
    ("EPSG:2264", -79, 35, "areas, lengths"),  # US survey feet
    ("+proj=lcc +lat_1=30 +lat_2=60 +lon_0=10 +units=us-ft +type=crs", 10, 70, ""),
    ("EPSG:2154", 3, 46, "areas, lengths"),
    ("EPSG:28992", 5.5, 52, "areas, lengths"),
    ("EPSG:3413", -40, 60, ""),
    ("EPSG:3995", 20, 60, ""),
    ("EPSG:3031", 10, -90, ""),
    ("EPSG:5041", 0, 89.999, ""),
    ("EPSG:3035", 9.5, 60, "areas, lengths"),
    ("EPSG:5070", -90, 40, "areas"),
    ("ESRI:54009", 9.5, 60, "areas"),
    ("ESRI:54008", 60, 50, "areas"),  # sinusoidal
    ("+proj=sinu +R=6371007.181 +type=crs", 60, 50, "areas"),
    ("ESRI:54052", 9.5, 50, "areas"),  # Goode's interrupted homolosine
    ("ESRI:54030", 9.5, 57, ""),  # Robinson
    ("EPSG:4087", 9.5, 60, ""),
    ("+proj=eqc +over +type=crs", 190, 60, ""),
    ("ESRI:54027", 9, 20, ""),  # equidistant conic
    ("+proj=aeqd +lat_0=50 +lon_0=10 +type=crs", 60, 10, ""),
    ("+proj=ortho +lat_0=40 +type=crs", 40, 10, ""),
]


@pytest.mark.parametrize("name, lon, lat, planar", PLACES)
def test_ground_in_any_crs_is_geographiclib_s(name, lon, lat, planar):
    crs = flat = CRS(name)
    while flat.is_bound or flat.is_compound:
        flat = flat.source_crs if flat.is_bound else flat.sub_crs_list[0]
    base = flat.source_crs if flat.is_derived else flat
    degrees = np.degrees(base.axis_info[0].unit_conversion_factor)
    unit = flat.axis_info[0].unit_conversion_factor * (6.4e6 if flat.is_geographic else 1)
    x, y = Transformer.from_crs("EPSG:4326", flat, always_xy=True).transform(lon, lat)
    transform = Affine(25 / unit, 0, x - 750 / unit, 0, -25 / unit, y + 600 / unit)
    grid = SimpleNamespace(crs=crs, transform=transform, height=50, width=60)
    box = shapely.Polygon([transform @ at for at in ((0, 0), (60, 0), (60, 50), (0, 50))])
    dense = shapely.get_coordinates(shapely.segmentize(box, 10 / unit)).T
    ring = Transformer.from_crs(flat, base, always_xy=True).transform(*dense)
    area, length = flat.get_geod().polygon_area_perimeter(*np.multiply(ring, degrees))

    areas, lengths = (5e-3 if kind in planar else 1e-5 for kind in ("areas", "lengths"))
    pixels = np.broadcast_to(pixel_areas(grid, 0, 50), (50, 60))
    assert pixels.sum() == pytest.approx(abs(area), rel=areas)
    assert areas_m2([box], crs) == pytest.approx([abs(area)], rel=areas)
    assert perimeters_m([box], crs) == pytest.approx([length], rel=lengths)
    plane = box.area * unit**2
    assert (areas_m2([box], crs)[0] == pytest.approx(plane, rel=1e-12)) == ("areas" in planar)


def test_what_has_no_square_metres_has_no_area():
    box = [shapely.box(0, 0, 30, 10)]
    for wkt in (
        'LOCAL_CS["site",UNIT["unknown",1]]',
        CRS("ESRI:54050").to_wkt(),  # Fuller's: PROJ does not know it
        'VERT_CS["height",VERT_DATUM["sea",2005],UNIT["metre",1]]',
    ):
        assert (
            np.isnan(areas_m2(box, CRS(wkt))).all() and np.isnan(perimeters_m(box, CRS(wkt))).all()
        )
    assert areas_m2(box, CRS(LOCAL)) == [300]
    feet = 'ENGCRS["site",EDATUM["post"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
    assert areas_m2(box, CRS(f'{feet}LENGTHUNIT["foot",0.3048]]')) == pytest.approx(300 * 0.3048**2)


@pytest.mark.parametrize(
    "name", ["ESRI:54030", "EPSG:8857", "+proj=aeqd +lat_0=50 +lon_0=10 +type=crs", ROTATED]
)
def test_the_whole_earth_has_its_area_beyond_which_there_is_none(name):
    crs = CRS(name)
    side = 180 if crs.is_geographic else 2.1e7
    height, width = 400, 600
    transform = Affine(2 * side / width, 0, -side, 0, -side / height * (2 - crs.is_geographic), 0)
    transform *= Affine.translation(0, -height / 2)
    grid = SimpleNamespace(crs=crs, transform=transform, height=height, width=width)
    whole = pixel_areas(grid, 0, height)
    assert whole.sum() == pytest.approx(510_065_621.724e6, rel=3e-3)
    assert crs.is_geographic or (whole[0, 0] == 0 and whole[200, 300] > 0)
    strip = pixel_areas(grid, 130, 7, 20, 5)
    assert np.array_equal(strip, whole[130:137, 20:25])


@pytest.mark.parametrize("name", ["EPSG:32645", "EPSG:3413", "+proj=igh +type=crs"])
@pytest.mark.parametrize("far", [2e9, 1e30, 1e300])
def test_what_no_projection_holds_has_no_area(name, far):
    near, huge = shapely.box(5e5, 3e6, 5.1e5, 3.01e6), shapely.box(-far, 0, far, far)
    for measured in (areas_m2, perimeters_m):
        alone, both = (measured(np.array(list(part)), name) for part in ([near], [near, huge]))
        assert both[0] == pytest.approx(alone[0], rel=0.006) and np.isnan(both[1])
    assert metres_per_pixel(96, 96, Affine(far, 0, 0, 0, -far, 0), name) is None


def test_parts_of_a_layer_are_measured_alike():
    # UTM of the zone 33 over all of Norway: 1 % too large in the east.
    norway, utm = (0, 6.4e6, 1.2e6, 7.9e6), CRS.from_epsg(32633)
    west = [shapely.box(3e5, 65e5, 301e3, 6501e3)]
    assert areas_m2(west, utm) == pytest.approx([1e6], rel=1e-12)
    assert areas_m2(west, utm, norway)[0] == pytest.approx(1e6 / 0.9996**2, rel=2e-3)
    assert areas_m2(west, utm, norway)[0] != areas_m2(west, utm)[0]


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
