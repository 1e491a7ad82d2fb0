import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import Geod, Transformer

from hook.errors import SceneError
from hook.geo.styles import write_category_names
from hook.scenes import class_statistics

GEOGRAPHIC = {"crs": "EPSG:4326", "transform": rasterio.Affine(0.5, 0, 10, 0, -0.25, 61)}


def blocks():
    """(36, 40): class 0 above, 1 below left, 2 below right, nodata in a corner."""
    values = np.zeros((36, 40), np.uint8)
    values[20:, :10], values[20:, 10:] = 1, 2
    values[:4, :5] = 255
    return values


def by_class(rows):
    return {row.class_id: row for row in rows}


@pytest.mark.parametrize("rows", [1, 7, None])
def test_areas_in_a_projected_crs(write_scene, rows):
    path = write_scene(blocks()[None], "map.tif", nodata=255)
    found = by_class(class_statistics(path, progress=False, strip_rows=rows))
    pixels = {0: 780, 1: 160, 2: 480}
    assert {i: row.pixels for i, row in found.items()} == pixels
    for class_id, row in found.items():
        assert row.zone is None and row.class_name == f"class_{class_id}"
        assert row.area_m2 == pixels[class_id] * 0.25
        assert row.area_ha == pytest.approx(row.area_m2 / 10_000)
        assert row.share == pytest.approx(pixels[class_id] / 1420)


@pytest.mark.parametrize("rows", [5, None])
def test_areas_in_a_geographic_crs_equal_geographiclib_s(write_scene, rows):
    path = write_scene(blocks()[None], "map.tif", nodata=255, **GEOGRAPHIC)
    found = by_class(class_statistics(path, progress=False, strip_rows=rows))
    geod = Geod(ellps="WGS84")
    boxes = {1: shapely.box(10, 52, 15, 56), 2: shapely.box(15, 52, 30, 56)}
    for class_id, box in boxes.items():
        # Geodesics follow parallels only in short pieces.
        expected = abs(geod.geometry_area_perimeter(shapely.segmentize(box, 0.005))[0])
        assert found[class_id].area_m2 == pytest.approx(expected, rel=1e-7)
    total = sum(row.area_m2 for row in found.values())
    assert found[1].share == pytest.approx(found[1].area_m2 / total)


def test_areas_in_mercator_are_those_on_the_ellipsoid(write_scene):
    to_mercator = Transformer.from_crs(4326, 3857, always_xy=True)
    (west, east), (south, north) = to_mercator.transform([10, 12], [60, 61])
    transform = rasterio.transform.from_bounds(west, south, east, north, 30, 40)
    path = write_scene(
        np.zeros((1, 40, 30), np.uint8), "map.tif", crs="EPSG:3857", transform=transform
    )
    (row,) = class_statistics(path, progress=False)
    box = shapely.segmentize(shapely.box(10, 60, 12, 61), 0.001)
    expected = abs(Geod(ellps="WGS84").geometry_area_perimeter(box)[0])
    assert row.area_m2 == pytest.approx(expected, rel=1e-7)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_map_without_crs_has_shares_only(write_scene):
    path = write_scene(blocks()[None], "map.tif", nodata=255, crs=None)
    found = by_class(class_statistics(path, progress=False))
    assert found[1].share == pytest.approx(160 / 1420)
    assert np.isnan([row.area_m2 for row in found.values()]).all()


def test_named_classes_are_there_without_a_pixel(write_scene, tmp_path):
    path = write_scene(blocks()[None], "map.tif", nodata=255)
    write_category_names(tmp_path / "map.tif.aux.xml", ["a", "b", "c", "", "e"])
    rows = class_statistics(path, progress=False)
    assert [(row.class_id, row.class_name) for row in rows] == list(
        zip([0, 1, 2, 4], "abce", strict=True)
    )
    assert (rows[-1].pixels, rows[-1].area_m2, rows[-1].share) == (0, 0, 0)


def test_names_come_from_an_attribute_table(write_scene, tmp_path):
    path = write_scene(blocks()[None], "map.tif", nodata=255)
    table = pandas.DataFrame({"Value": [0, 2], "Class_Name": ["wood", "water"]})
    pyogrio.write_dataframe(table, f"{path}.vat.dbf", driver="ESRI Shapefile")
    with pytest.warns(UserWarning, match="value 1 has no name, and is named class_1"):
        rows = class_statistics(path, progress=False)
    assert [row.class_name for row in rows] == ["wood", "class_1", "water"]
    pyogrio.write_dataframe(table[:1], f"{path}.vat.dbf", driver="ESRI Shapefile")
    with pytest.raises(SceneError, match="values that are no class"):
        class_statistics(path, progress=False)


def test_an_empty_map_has_no_shares(write_scene):
    path = write_scene(np.full((1, 4, 4), 255, np.uint8), "map.tif", nodata=255)
    assert class_statistics(path, progress=False) == []
    rows = class_statistics(path, class_names=["a"], progress=False)
    assert rows[0].pixels == rows[0].area_m2 == 0 and np.isnan(rows[0].share)


def write_zones(path, polygons, crs="EPSG:32645", **columns):
    geopandas.GeoDataFrame(columns, geometry=polygons, crs=crs).to_file(path)
    return path


@pytest.mark.parametrize("rows", [3, None])
@pytest.mark.parametrize("rotated", [False, True])
def test_a_pixel_belongs_to_the_zone_its_centre_is_in(write_scene, tmp_path, rotated, rows):
    place = {"transform": rasterio.Affine(0.4, 0.1, 3e5, 0.1, -0.5, 3e6)} if rotated else {}
    values = np.random.default_rng(3).integers(0, 4, (36, 40)).astype(np.uint8)
    values[values == 3] = 255
    path = write_scene(values[None], "map.tif", nodata=255, **place)
    polygons = [
        shapely.Polygon([(300001.3, 2999999), (300014.2, 2999996), (300006.1, 2999985.7)]),
        shapely.Point(300018, 2999990).buffer(5) - shapely.Point(300018, 2999990).buffer(2),
        shapely.MultiPolygon([shapely.box(3e5 - 9, 2999998.07, 3e5 + 2.03, 3e6 + 9)]),
        shapely.box(4e5, 2e6, 4e5 + 1, 2e6 + 1),
    ]
    zones = write_zones(tmp_path / "z.gpkg", polygons, name=["tri", "ring", "corner", "off"])
    found = class_statistics(path, zones=zones, progress=False, strip_rows=rows, zone_field="name")
    assert [row.zone for row in found[::3]] == ["tri", "ring", "corner", "off"]
    with rasterio.open(path) as source:
        col, row = np.meshgrid(np.arange(40) + 0.5, np.arange(36) + 0.5)
        t = source.transform
        x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
        pixel = abs(t.determinant)
    expected = [
        (np.count_nonzero(values[shapely.contains_xy(polygon, x, y)] == class_id))
        for polygon in polygons
        for class_id in range(3)
    ]
    assert [row.pixels for row in found] == expected
    assert sum(expected[:3]) and sum(expected[3:6]) and sum(expected[6:9])
    assert [row.area_m2 for row in found] == pytest.approx(np.array(expected) * pixel)
    assert sum(row.share for row in found[:3]) == pytest.approx(1)
    assert np.isnan([row.share for row in found[9:]]).all()


def test_zones_that_part_the_map_part_its_pixels(write_scene, tmp_path):
    # Borders through the centres of pixels: each belongs to one side.
    path = write_scene(blocks()[None], "map.tif", nodata=255)
    x = [300000, 300003.25, 300011.75, 300020]
    polygons = [shapely.box(a, 2999000, b, 3000001) for a, b in zip(x[:-1], x[1:], strict=True)]
    found = class_statistics(path, zones=write_zones(tmp_path / "z.gpkg", polygons), progress=False)
    assert sum(row.pixels for row in found) == 1420
    assert sorted({row.zone for row in found}) == [1, 2, 3]  # feature ids of the GeoPackage
    table = geopandas.GeoDataFrame(geometry=polygons[1:2], crs="EPSG:32645")
    table.to_file(tmp_path / "z.gpkg", layer="middle")
    middle = class_statistics(path, zones=f"{tmp_path}/z.gpkg|layername=middle", progress=False)
    assert [row.pixels for row in middle] == [row.pixels for row in found if row.zone == 2]


def test_zones_that_lie_elsewhere_are_told_of(write_scene, tmp_path):
    path = write_scene(blocks()[None], "map.tif", nodata=255)
    zones = write_zones(tmp_path / "z.gpkg", [shapely.box(0, 0, 9, 9)])
    with pytest.warns(UserWarning, match="none has a pixel of the map"):
        rows = class_statistics(path, zones=zones, progress=False)
    assert [row.pixels for row in rows] == [0] * len(rows)


@pytest.mark.parametrize("ending", ["geojson", "parquet"])
def test_zones_in_another_crs(write_scene, tmp_path, ending):
    path = write_scene(blocks()[None], "map.tif", nodata=255)
    zone = geopandas.GeoSeries([shapely.box(300000, 2999982, 300005, 2999990)], crs=32645)
    table = geopandas.GeoDataFrame({"id": [7]}, geometry=zone).to_crs(4326)
    zones = tmp_path / f"z.{ending}"
    table.to_parquet(zones) if ending == "parquet" else table.to_file(zones)
    rows = class_statistics(path, zones=zones, zone_field="id", progress=False)
    assert [(row.zone, row.class_id, row.pixels) for row in rows] == [(7, 1, 160)]


def test_long_edges_of_zones_stay_straight_where_they_were_drawn(write_scene, tmp_path):
    # The parallel of 60 degrees, a curve in UTM that sags 5 km below its chord.
    transform = rasterio.Affine(2000, 0, 3e5, 0, -2000, 6720000)
    path = write_scene(
        np.zeros((1, 60, 220), np.uint8), "map.tif", crs="EPSG:32633", transform=transform
    )
    zones = write_zones(tmp_path / "z.gpkg", [shapely.box(5, 60, 25, 62)], crs=4326)
    (row,) = class_statistics(path, zones=zones, progress=False)
    col, lines = np.meshgrid(np.arange(220) + 0.5, np.arange(60) + 0.5)
    to_geographic = Transformer.from_crs(32633, 4326, always_xy=True)
    _, lat = to_geographic.transform(3e5 + 2000 * col, 6720000 - 2000 * lines)
    assert abs(row.pixels - (lat > 60).sum()) <= 2


def test_zones_of_a_hemisphere_without_shape_and_empty_ones(write_scene):
    path = write_scene(blocks()[None], "map.tif", nodata=255)
    polygons = [shapely.box(-180, 0, 180, 90), None, shapely.Polygon(), shapely.box(0, -90, 180, 0)]
    names = ["north", "none", "empty", "south"]
    zones = geopandas.GeoDataFrame({"name": names}, geometry=polygons, crs=4326)
    rows = class_statistics(path, zones=zones, zone_field="name", progress=False)
    assert [row.zone for row in rows[::3]] == names and zones.geometry[1] is None
    assert [row.pixels for row in rows] == [780, 160, 480] + [0] * 9
    with pytest.raises(SceneError, match="zones without area"):
        class_statistics(path, zones=zones[1:3], progress=False)


@pytest.mark.parametrize(
    "crs, x, y",
    [
        ("EPSG:32632+5773", 5e5, 6.6e6),
        ("EPSG:3857+5773", 1e6, 8.4e6),
        ("EPSG:3413", 2e5, -3.2e6),
        ("ESRI:54030", 8e5, 6.2e6),
        ("+proj=merc +ellps=intl +towgs84=-87,-98,-121 +units=m", 1e6, 8.4e6),
    ],
)
def test_areas_of_a_file_in_any_crs(write_scene, crs, x, y):
    transform = rasterio.Affine(20, 0, x, 0, -20, y)
    crs = rasterio.CRS.from_user_input(crs)
    path = write_scene(blocks()[None], "map.tif", nodata=255, crs=crs, transform=transform)
    found = by_class(class_statistics(path, progress=False))
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    box = shapely.segmentize(shapely.box(x + 200, y - 720, x + 800, y - 400), 10)
    ring = to_degrees.transform(*shapely.get_coordinates(box).T)
    expected = abs(Geod(ellps="WGS84").polygon_area_perimeter(*ring)[0])
    assert found[2].area_m2 == pytest.approx(expected, rel=1e-3)


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_bad_zones_are_named(write_scene, tmp_path):
    path = write_scene(blocks()[None], "map.tif", nodata=255)
    box = [shapely.box(3e5, 2999990, 3e5 + 5, 3e6)]
    (tmp_path / "text.gpkg").write_text("no zones")
    cases = [
        (tmp_path / "absent.gpkg", {}, r"absent\.gpkg cannot be read"),
        (tmp_path / "text.gpkg", {}, r"text\.gpkg cannot be read"),
        (write_zones(tmp_path / "a.gpkg", box, a=[1]), {"zone_field": "b"}, "no field 'b'"),
        (write_zones(tmp_path / "p.gpkg", [shapely.Point(3e5, 3e6)]), {}, "expected: polygons"),
        (write_zones(tmp_path / "c.fgb", box, crs=None), {}, r"c\.fgb: cannot be overlaid on"),
    ]
    for zones, options, message in cases:
        with pytest.raises(SceneError, match=message):
            class_statistics(path, zones=zones, progress=False, **options)


def test_bad_maps_are_named(write_scene, tmp_path):
    for path, message in (
        (tmp_path / "absent.tif", r"absent\.tif cannot be read"),
        (write_scene(np.ones((1, 4, 4), np.float32), "f.tif"), r"f\.tif: not a class map"),
        (write_scene(np.full((1, 4, 4), -1, np.int16), "n.tif"), r"n\.tif: values that are no"),
    ):
        with pytest.raises(SceneError, match=message):
            class_statistics(path, progress=False)
