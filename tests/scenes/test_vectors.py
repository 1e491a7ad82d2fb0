import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from pyproj import CRS, Geod
from rasterio import features

from hook.errors import SceneError
from hook.scenes import map_scene, polygonize
from hook.scenes.styles import write_category_names
from hook.scenes.vectors import areas_m2

NAMES = ["field", "road", "water"]
GEOGRAPHIC = {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-3, 0, 85.5, 0, -2e-3, 47.6)}
ROTATED = {"transform": rasterio.Affine(0.4, 0.1, 3e5, 0.1, -0.5, 3e6)}


def class_map(kind):
    """A map of noise (every junction there is) or of blocks, with nodata in it."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, (60, 71)).astype(np.uint8)
    if kind == "blocks":
        values = np.kron(values[:9, :11], np.ones((7, 7), np.uint8))
    values[:13, :9] = 255
    values[30, 30] = 255
    return values[None]


@pytest.mark.parametrize("kind", ["noise", "blocks"])
@pytest.mark.parametrize("place", [{}, GEOGRAPHIC, ROTATED], ids=["utm", "geographic", "rotated"])
def test_polygons_cover_the_map_once(write_scene, tmp_path, kind, place):
    values = class_map(kind)
    path = write_scene(values, "map.tif", nodata=255, **place)
    count = polygonize(path, tmp_path / "map.gpkg", class_names=NAMES, progress=False)
    table = geopandas.read_file(tmp_path / "map.gpkg", layer="regions")
    with rasterio.open(path) as source:
        transform, crs = source.transform, source.crs
    assert len(table) == count and table.crs == crs
    assert (table.geom_type == "Polygon").all() and table.is_valid.all()
    pixel = abs(transform.determinant)
    valid = (values != 255).sum()
    assert shapely.area(table.geometry.values).sum() == pytest.approx(valid * pixel, rel=1e-9)
    union = shapely.union_all(table.geometry.values)
    assert union.area == pytest.approx(valid * pixel, rel=1e-9)
    # GEOS's own test of a coverage: no overlap, and the same vertices along common edges.
    assert shapely.coverage_is_valid(table.geometry.values)
    burnt = features.rasterize(
        zip(table.geometry, table.class_id, strict=True),
        out_shape=values.shape[1:],
        transform=transform,
        fill=255,
        dtype="uint8",
    )
    np.testing.assert_array_equal(burnt, values[0])
    assert [NAMES[i] for i in table.class_id] == table.class_name.tolist()
    # 4-connected regions, as another algorithm labels them.
    expected = sum(
        len(list(features.shapes((values[0] == i).astype(np.uint8), mask=values[0] == i)))
        for i in range(3)
    )
    assert count == expected


def test_shared_edges_stay_shared_when_simplified(write_scene, tmp_path):
    values = class_map("blocks")
    path = write_scene(values, "map.tif", nodata=255)
    polygonize(path, tmp_path / "map.gpkg", progress=False)
    polygons = geopandas.read_file(tmp_path / "map.gpkg").geometry.values
    simple = shapely.coverage_simplify(polygons, 2.0)
    assert shapely.coverage_is_valid(simple)
    assert shapely.get_num_coordinates(simple).sum() < shapely.get_num_coordinates(polygons).sum()


@pytest.mark.parametrize("epsg, factor", [(32645, 1), (2264, 0.3048006096012192**2)])
def test_area_in_projected_crs_is_pixels(write_scene, tmp_path, epsg, factor):
    values = class_map("blocks")
    path = write_scene(values, "map.tif", nodata=255, crs=f"EPSG:{epsg}")
    polygonize(path, tmp_path / "map.gpkg", progress=False)
    area = geopandas.read_file(tmp_path / "map.gpkg").area_m2.sum()
    assert area == pytest.approx((values != 255).sum() * 0.25 * factor, rel=1e-9)


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


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_map_without_crs_has_polygons_but_no_area(write_scene, tmp_path):
    path = write_scene(class_map("blocks"), "map.tif", nodata=255, crs=None)
    with pytest.warns(UserWarning, match=r"map\.tif: no CRS"):
        count = polygonize(path, tmp_path / "map.gpkg", progress=False)
    table = geopandas.read_file(tmp_path / "map.gpkg")
    assert len(table) == count > 0 and table.area_m2.isna().all()


def test_small_regions_go_to_their_neighbour_without_a_gap(write_scene, tmp_path):
    values = class_map("blocks")
    values[0, 20, 20] = (values[0, 20, 20] + 1) % 3
    path = write_scene(values, "map.tif", nodata=255)
    polygonize(path, tmp_path / "map.gpkg", min_area=5, progress=False)
    table = geopandas.read_file(tmp_path / "map.gpkg")
    assert table.area_m2.min() >= 5
    assert table.area_m2.sum() == (values != 255).sum() * 0.25
    assert shapely.coverage_is_valid(table.geometry.values)


@pytest.mark.parametrize("window", [16, 33, 200])
def test_window_size_leaves_no_seams(write_scene, softmax_of_bands, tmp_path, window):
    rng = np.random.default_rng(0)
    scene = write_scene(np.kron(rng.random((3, 12, 13)), np.ones((1, 9, 9))).astype(np.float32))
    counts = []
    for name, size in (("a", 64), ("b", window)):
        options = {"num_classes": 3, "window": size, "progress": False}
        map_scene(softmax_of_bands, scene, tmp_path / f"{name}.tif", **options)
        counts.append(polygonize(tmp_path / f"{name}.tif", tmp_path / f"{name}.gpkg"))
    first, second = (geopandas.read_file(tmp_path / f"{name}.gpkg") for name in "ab")
    assert counts[0] == counts[1] and first.equals(second)


def test_names_come_from_the_map(write_scene, tmp_path):
    path = write_scene(class_map("blocks"), "map.tif", nodata=255)
    polygonize(path, tmp_path / "a.gpkg", progress=False)
    assert set(geopandas.read_file(tmp_path / "a.gpkg").class_name) == {
        "class_0",
        "class_1",
        "class_2",
    }
    write_category_names(tmp_path / "map.tif.aux.xml", NAMES)
    polygonize(path, tmp_path / "b.gpkg", progress=False)
    assert set(geopandas.read_file(tmp_path / "b.gpkg").class_name) == set(NAMES)


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_dtypes_and_more_regions_than_a_table_holds(write_scene, tmp_path, dtype):
    values = np.indices((150, 140)).sum(axis=0) % 2  # 21,000 regions of one pixel
    path = write_scene(values[None].astype(dtype), "map.tif")
    assert polygonize(path, tmp_path / "map.gpkg", layer="cells", progress=False) == 21000
    table = geopandas.read_file(tmp_path / "map.gpkg", layer="cells")
    assert len(table) == 21000 and (table.area_m2 == 0.25).all()


def test_map_without_regions_gives_an_empty_layer(write_scene, tmp_path):
    path = write_scene(np.full((1, 5, 5), 255, np.uint8), "map.tif", nodata=255)
    assert polygonize(path, tmp_path / "map.gpkg", progress=False) == 0
    table = geopandas.read_file(tmp_path / "map.gpkg")
    assert len(table) == 0 and table.crs.to_epsg() == 32645 and "class_name" in table


def test_same_map_gives_the_same_bytes(write_scene, tmp_path):
    path = write_scene(class_map("noise"), "map.tif", nodata=255)
    for name in "ab":
        polygonize(path, tmp_path / f"{name}.gpkg", progress=False)
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()


def test_geoparquet(write_scene, tmp_path):
    pytest.importorskip("pyarrow", reason="GeoParquet needs pyarrow")
    path = write_scene(class_map("noise"), "map.tif", nodata=255)
    count = polygonize(path, tmp_path / "map.parquet", class_names=NAMES, progress=False)
    polygonize(path, tmp_path / "map.gpkg", class_names=NAMES, progress=False)
    table = geopandas.read_parquet(tmp_path / "map.parquet")
    assert len(table) == count and table.crs.to_epsg() == 32645
    other = geopandas.read_file(tmp_path / "map.gpkg")
    assert table.geometry.geom_equals(other.geometry).all()
    assert table.class_name.tolist() == other.class_name.tolist()


def test_geoparquet_without_pyarrow_names_it(write_scene, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = write_scene(class_map("noise"), "map.tif", nodata=255)
    with pytest.raises(SceneError, match="install pyarrow"):
        polygonize(path, tmp_path / "map.parquet")


def test_bad_input_is_named_and_leaves_nothing(write_scene, tmp_path):
    path = write_scene(class_map("noise"), "map.tif", nodata=255)
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "map.gpkg"
    for map_path, options, message in (
        (tmp_path / "absent.tif", {}, r"absent\.tif"),
        (write_scene(np.ones((1, 4, 4), np.float32), "f.tif"), {}, r"f\.tif: not a class map"),
        (write_scene(np.ones((2, 4, 4), np.uint8), "two.tif"), {}, r"two\.tif: not a class map"),
        (path, {"class_names": NAMES[:2]}, r"no class"),
        (path, {"nodata": 0, "class_names": NAMES}, r"no class"),
        (path, {"min_area": -1}, "min_area"),
    ):
        with pytest.raises(SceneError, match=message):
            polygonize(map_path, output, progress=False, **options)
        assert not list(output.parent.iterdir())
    with pytest.raises(SceneError, match=r"\.gpkg, \.parquet"):
        polygonize(path, output.with_suffix(".shp"))
    output.write_text("mine")
    with pytest.raises(SceneError, match="exists already"):
        polygonize(path, output)
    assert output.read_text() == "mine"
    polygonize(path, output, overwrite=True, progress=False)
    assert len(geopandas.read_file(output)) > 0


def test_a_failure_while_writing_leaves_nothing(write_scene, tmp_path, monkeypatch):
    path = write_scene(class_map("noise"), "map.tif", nodata=255)
    (tmp_path / "out").mkdir()

    def fail(*arguments, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(geopandas.GeoDataFrame, "to_file", fail)
    with pytest.raises(SceneError, match="No space left"):
        polygonize(path, tmp_path / "out" / "map.gpkg", progress=False)
    assert not list((tmp_path / "out").iterdir())
