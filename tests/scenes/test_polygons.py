import contextlib
import json
import sqlite3

import geopandas
import numpy as np
import pyarrow.parquet
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import Geod
from rasterio import features

from hook.errors import SceneError
from hook.geo.styles import ClassStyle, write_category_names, write_style
from hook.scenes import MapRequest, map_scene, polygonize

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


@pytest.mark.parametrize(
    "epsg, factor, x, y", [(32645, 1, 3e5, 3e6), (2264, 0.3048006096012192**2, 2e6, 7e5)]
)
def test_area_in_projected_crs_is_pixels(write_scene, tmp_path, epsg, factor, x, y):
    values = class_map("blocks")
    place = rasterio.Affine(0.5, 0, x, 0, -0.5, y)
    path = write_scene(values, "map.tif", nodata=255, crs=f"EPSG:{epsg}", transform=place)
    polygonize(path, tmp_path / "map.gpkg", progress=False)
    area = geopandas.read_file(tmp_path / "map.gpkg").area_m2.sum()
    assert area == pytest.approx((values != 255).sum() * 0.25 * factor, rel=1e-9)


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
        request = MapRequest(scene, tmp_path / f"{name}.tif", window=size, progress=False)
        map_scene(softmax_of_bands, request, num_classes=3)
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


def test_polygons_open_in_the_colours_of_the_map(write_scene, tmp_path):
    path = write_scene(np.kron([[0, 1]], np.ones((4, 4))).astype(np.uint8)[np.newaxis], "map.tif")
    write_style(path, [ClassStyle(0, "field", (1, 2, 3)), ClassStyle(1, "road", (4, 5, 6))])
    of_the_map = path.with_suffix(".qml").read_bytes()
    (tmp_path / "out").mkdir()
    polygonize(path, tmp_path / "out" / "land.gpkg", progress=False)
    assert (tmp_path / "out" / "land.qml").read_bytes() == of_the_map
    # Beside the map its own style serves both, and a user's own is left alone.
    path.with_suffix(".qml").write_text("mine")
    polygonize(path, path.with_suffix(".gpkg"), progress=False)
    assert path.with_suffix(".qml").read_text() == "mine"


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


@pytest.mark.parametrize("name", ["a.gpkg", "a.parquet", "a.fgb", "a.geojson"])
def test_a_map_without_regions_in_every_format(write_scene, tmp_path, name):
    path = write_scene(np.full((1, 5, 5), 255, np.uint8), "map.tif", nodata=255)
    options = {"min_area": 9, "simplify": 1, "strip_rows": 2, "progress": False}
    assert polygonize(path, tmp_path / name, **options) == 0
    read = geopandas.read_parquet if name == "a.parquet" else geopandas.read_file
    assert len(read(tmp_path / name)) == 0


def test_same_map_gives_the_same_bytes(write_scene, tmp_path):
    path = write_scene(class_map("noise"), "map.tif", nodata=255)
    for name in "ab":
        polygonize(path, tmp_path / f"{name}.gpkg", progress=False)
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()


def test_geoparquet(write_scene, tmp_path):
    path = write_scene(class_map("noise"), "map.tif", nodata=255)
    count = polygonize(path, tmp_path / "map.parquet", class_names=NAMES, progress=False)
    polygonize(path, tmp_path / "map.gpkg", class_names=NAMES, progress=False)
    table = geopandas.read_parquet(tmp_path / "map.parquet")
    assert len(table) == count and table.crs.to_epsg() == 32645
    other = geopandas.read_file(tmp_path / "map.gpkg")
    assert table.geometry.geom_equals(other.geometry).all()
    assert table.class_name.tolist() == other.class_name.tolist()


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
        (path, {"simplify": float("nan")}, "simplify"),
        (path, {"scores": tmp_path / "absent.tif"}, r"absent\.tif"),
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

    monkeypatch.setattr(pyogrio, "write_arrow", fail)
    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_batch", fail)
    for name in ("map.gpkg", "map.parquet"):
        with pytest.raises(SceneError, match="No space left"):
            polygonize(path, tmp_path / "out" / name, progress=False)
        assert not list((tmp_path / "out").iterdir())


def test_a_damaged_map_is_named_whatever_writes(write_scene, tmp_path):
    path = write_scene(np.random.default_rng(0).integers(0, 3, (1, 300, 70), np.uint8), "map.tif")
    path.write_bytes(path.read_bytes()[:-9_000])
    (tmp_path / "out").mkdir()
    for name in ("map.gpkg", "map.parquet"):
        with pytest.raises(SceneError, match=r"map\.tif cannot be read"):
            polygonize(path, tmp_path / "out" / name, progress=False, strip_rows=30)
        assert not list((tmp_path / "out").iterdir())


def without_straight_corners(polygon):
    """The polygon with its bends only, as GDAL gives it."""

    def bends(ring):
        points = np.array(ring.coords)[:-1]
        before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
        return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]

    return shapely.Polygon(bends(polygon.exterior), [bends(ring) for ring in polygon.interiors])


@pytest.mark.parametrize("seed", range(6))
def test_strips_of_any_height_give_what_the_whole_map_gives(write_scene, tmp_path, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, rng.integers(1, 5), rng.integers(1, 40, 2)).astype(np.uint8)
    if seed % 2:
        values = np.kron(values, np.ones((3, 2), np.uint8))
    values[rng.random(values.shape) < 0.2] = 255
    path = write_scene(
        values[None], "map.tif", nodata=255, transform=rasterio.Affine(2, 0, 0, 0, -2, 0)
    )
    files = []
    for rows in (1, 7, 1000):
        files.append(tmp_path / f"{rows}.gpkg")
        polygonize(path, files[-1], progress=False, strip_rows=rows)
    assert len({file.read_bytes() for file in files}) == 1
    table = geopandas.read_file(files[0])
    found = [without_straight_corners(polygon) for polygon in table.geometry]
    expected = list(
        features.shapes(
            values, mask=values != 255, connectivity=4, transform=rasterio.Affine.scale(2, -2)
        )
    )

    def keys(polygons, ids):
        return sorted(zip(map(int, ids), shapely.to_wkt(shapely.normalize(polygons)), strict=True))

    assert keys(found, table.class_id) == keys(
        [shapely.geometry.shape(region) for region, _ in expected], [i for _, i in expected]
    )
    assert shapely.coverage_is_valid(table.geometry.values)


@pytest.mark.parametrize("ending", [".fgb", ".geojson", ".parquet"])
def test_other_formats_hold_the_same_in_strips(write_scene, tmp_path, ending):
    path = write_scene(class_map("noise"), "map.tif", nodata=255)
    outputs = [tmp_path / f"a{ending}", tmp_path / f"b{ending}"]
    for output, rows in zip(outputs, (5, None), strict=True):
        polygonize(path, output, class_names=NAMES, progress=False, strip_rows=rows)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    read = geopandas.read_parquet if ending == ".parquet" else geopandas.read_file
    table = read(outputs[0])
    polygonize(path, tmp_path / "map.gpkg", class_names=NAMES, progress=False)
    expected = geopandas.read_file(tmp_path / "map.gpkg")
    # FlatGeobuf sorts its features along a Hilbert curve.
    order = ["class_id", "area_m2", "perimeter_m"]
    assert table[order].sort_values(order).values == pytest.approx(
        expected[order].sort_values(order).values
    )
    # GeoJSON is rounded to a hundredth of a pixel.
    assert table.to_crs(expected.crs).area.sum() == pytest.approx(expected.area.sum(), rel=1e-5)
    assert shapely.coverage_is_valid(table.geometry.values)
    assert set(table.class_name) == set(NAMES)


def test_geojson_follows_rfc_7946(write_scene, tmp_path):
    path = write_scene(class_map("blocks"), "map.tif", nodata=255)
    polygonize(path, tmp_path / "map.geojson", progress=False)
    collection = json.loads((tmp_path / "map.geojson").read_text())
    assert "crs" not in collection
    polygonize(path, tmp_path / "map.gpkg", progress=False)
    expected = geopandas.read_file(tmp_path / "map.gpkg").to_crs("EPSG:4326").geometry
    polygons = [shapely.geometry.shape(feature["geometry"]) for feature in collection["features"]]
    assert all(polygon.exterior.is_ccw for polygon in polygons)
    # Seven digits are a centimetre, a pixel is half a metre.
    assert max(a.hausdorff_distance(b) for a, b in zip(polygons, expected, strict=True)) < 1e-7


def test_long_edges_of_geojson_are_curved_where_the_projection_is(write_scene, tmp_path):
    transform = rasterio.Affine(1000, 0, 3e5, 0, -1000, 6.6e6)
    values = np.zeros((1, 20, 400), np.uint8)
    path = write_scene(values, "map.tif", crs="EPSG:32633", transform=transform)
    polygonize(path, tmp_path / "map.geojson", progress=False)
    (polygon,) = geopandas.read_file(tmp_path / "map.geojson").geometry
    dense = shapely.segmentize(shapely.box(3e5, 6.58e6, 7e5, 6.6e6), 100)
    expected = geopandas.GeoSeries([dense], crs=32633).to_crs(4326)[0]
    # A tenth of a pixel of 1 km; the chord of the upper edge is 3 km off.
    assert polygon.hausdorff_distance(expected) < 0.001
    assert len(polygon.exterior.coords) < 200


@pytest.mark.parametrize(
    "crs, transform",
    [
        ("EPSG:4326", rasterio.Affine(0.5, 0, 160, 0, -0.5, 61)),
        ("EPSG:3832", rasterio.Affine(5e4, 0, 2e6, 0, -5e4, 5e6)),
        ("EPSG:32660", rasterio.Affine(2e4, 0, 3e5, 0, -1e4, 3e6)),
    ],
)
def test_geojson_across_180_degrees(write_scene, tmp_path, crs, transform):
    path = write_scene(class_map("noise"), "map.tif", nodata=255, crs=crs, transform=transform)
    polygonize(path, tmp_path / "map.geojson", progress=False)
    table = geopandas.read_file(tmp_path / "map.geojson")
    west, _, east, _ = table.bounds.T.to_numpy()
    assert (west >= -180).all() and (east <= 180).all() and table.is_valid.all()
    cut = table[table.geom_type == "MultiPolygon"]
    assert len(cut) and len(cut) < len(table)
    shapes = shapely.segmentize(table.geometry.explode().to_numpy(), 0.05)
    area = sum(abs(Geod(ellps="WGS84").geometry_area_perimeter(shape)[0]) for shape in shapes)
    assert area == pytest.approx(table.area_m2.sum(), rel=1e-3)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_geojson_needs_a_crs(write_scene, tmp_path):
    path = write_scene(class_map("blocks"), "map.tif", nodata=255, crs=None)
    with pytest.raises(SceneError, match="WGS 84"):
        polygonize(path, tmp_path / "map.json", progress=False)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning", "ignore:.*no CRS")
@pytest.mark.parametrize("crs", ["EPSG:32645", None])
def test_geoparquet_metadata(write_scene, tmp_path, crs):
    path = write_scene(class_map("noise"), "map.tif", nodata=255, crs=crs)
    polygonize(path, tmp_path / "map.parquet", progress=False)
    file = pyarrow.parquet.ParquetFile(tmp_path / "map.parquet")
    geo = json.loads(file.metadata.metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    table = geopandas.read_parquet(tmp_path / "map.parquet")
    assert geo["version"] == "1.1.0" and column["geometry_types"] == ["Polygon"]
    assert column["bbox"] == table.total_bounds.tolist()
    assert (column["crs"] is None) == (crs is None) and table.crs == crs
    # The boxes of the rows, found through the metadata, choose rows.
    west, south, east, north = table.total_bounds
    box = (west, south, west + 3, south + 3)
    part = geopandas.read_parquet(tmp_path / "map.parquet", bbox=box)
    assert 0 < len(part) < len(table)
    assert len(part) == (table.bounds.minx.le(box[2]) & table.bounds.miny.le(box[3])).sum()


@pytest.mark.parametrize("kind", ["noise", "blocks"])
@pytest.mark.parametrize("place", [{}, ROTATED], ids=["utm", "rotated"])
def test_simplified_polygons_cover_the_map_once(write_scene, tmp_path, kind, place):
    path = write_scene(class_map(kind), "map.tif", nodata=255, **place)
    polygonize(path, tmp_path / "map.gpkg", min_area=1, progress=False)
    polygonize(path, tmp_path / "simple.gpkg", min_area=1, simplify=3, progress=False)
    full, simple = (geopandas.read_file(tmp_path / f"{n}.gpkg") for n in ("map", "simple"))
    corners = [shapely.get_num_coordinates(t.geometry.values).sum() for t in (simple, full)]
    assert corners[0] < 0.9 * corners[1]
    assert shapely.coverage_is_valid(simple.geometry.values)
    assert (simple.geom_type == "Polygon").all() and simple.is_valid.all()
    assert simple.class_id.tolist() == full.class_id.tolist()
    assert simple.area_m2.sum() == pytest.approx(full.area_m2.sum(), rel=1e-9)
    assert simple.union_all().symmetric_difference(full.union_all()).area < 1e-6
    assert simple.area_m2.values == pytest.approx(simple.area.values)


@pytest.mark.parametrize("rows", [3, None])
@pytest.mark.parametrize("bands", [1, 3])
def test_mean_scores(write_scene, tmp_path, bands, rows):
    rng = np.random.default_rng(2)
    values = class_map("blocks")[0]
    stored = rng.integers(0, 251, (bands, *values.shape)).astype(np.uint8)
    stored[:, rng.random(values.shape) < 0.3] = 255
    path = write_scene(values[None], "map.tif", nodata=255)
    scores = write_scene(stored, "p.tif", nodata=255)
    with rasterio.open(scores, "r+") as target:
        target.scales, target.offsets = (0.004,) * bands, (0.1,) * bands
    polygonize(path, tmp_path / "map.gpkg", scores=scores, progress=False, strip_rows=rows)
    table = geopandas.read_file(tmp_path / "map.gpkg")
    with rasterio.open(path) as source:
        transform = source.transform
    for class_id, polygon, score in zip(table.class_id, table.geometry, table.score, strict=True):
        inside = features.geometry_mask([polygon], values.shape, transform, invert=True)
        own = stored[class_id if bands > 1 else 0][inside]
        assert score == pytest.approx(own[own != 255].mean() * 0.004 + 0.1, rel=1e-12)


def test_scores_of_another_grid_or_too_few_bands(write_scene, tmp_path):
    path = write_scene(class_map("blocks"), "map.tif", nodata=255)
    shape = class_map("blocks").shape[1:]
    for scores, message in (
        (write_scene(np.ones((1, 5, 5), np.uint8), "a.tif"), r"a\.tif: not on the map's grid"),
        (
            write_scene(np.ones((1, *shape), np.uint8), "b.tif", **ROTATED),
            r"b\.tif: not on the map's grid",
        ),
        (write_scene(np.ones((2, *shape), np.uint8), "c.tif"), r"c\.tif: number of bands"),
    ):
        with pytest.raises(SceneError, match=message):
            polygonize(path, tmp_path / "map.gpkg", scores=scores, progress=False)
        assert not (tmp_path / "map.gpkg").exists()


def test_regions_without_a_score_have_none(write_scene, tmp_path):
    path = write_scene(np.array([[[0, 1]]], np.uint8), "map.tif")
    scores = write_scene(np.array([[[7, 255]]], np.uint8), "p.tif", nodata=255)
    polygonize(path, tmp_path / "map.gpkg", scores=scores, progress=False)
    found = geopandas.read_file(tmp_path / "map.gpkg").score
    assert found[0] == 7 and np.isnan(found[1])


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM gpkg_spatial_ref_sys WHERE srs_id > 0",
        "DELETE FROM gpkg_extensions",
        "UPDATE gpkg_ogr_contents SET feature_count = 0",
        "DROP TABLE gpkg_ogr_contents",
    ],
)
def test_a_geopackage_that_lacks_a_part_is_not_delivered(
    write_scene, tmp_path, monkeypatch, damage
):
    write = pyogrio.write_arrow

    def incomplete(table, path, **options):  # what GDAL leaves on a full disk, in silence
        write(table, path, **options)
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute(damage)

    path = write_scene(np.eye(4, dtype=np.uint8)[None], nodata=255)
    monkeypatch.setattr(pyogrio, "write_arrow", incomplete)
    with pytest.raises(SceneError, match="cannot be written"):
        polygonize(path, tmp_path / "areas.gpkg", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


@pytest.mark.parametrize("crs", ["EPSG:32645", None])
def test_a_geopackage_without_features_is_complete(write_scene, tmp_path, crs):
    path = write_scene(np.full((1, 4, 4), 255, np.uint8), nodata=255, crs=crs)
    assert polygonize(path, tmp_path / "areas.gpkg", progress=False) == 0
    assert len(geopandas.read_file(tmp_path / "areas.gpkg")) == 0
