"""Map layers from a finished class map, as a notebook calls for them."""

import json
import warnings

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint

from hook.apis import class_statistics, show_map, show_scene, style_map, vectorize_map
from hook.apis.layers import format_statistics
from hook.errors import ConfigError, HookError, SceneError
from hook.geo.arrays import read_class_map


@pytest.fixture
def class_map(tmp_path):
    """A map of two classes."""
    values = np.kron(np.array([[0, 1], [1, 1]], np.uint8), np.ones((4, 4), np.uint8))
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32645"}
    profile |= {"height": 8, "width": 8, "transform": rasterio.Affine(5, 0, 3e5, 0, -5, 3e6)}
    with rasterio.open(tmp_path / "map.tif", "w", **profile) as target:
        target.write(values, 1)
    return tmp_path / "map.tif"


def test_layers_of_one_map_agree(class_map, tmp_path):
    (tmp_path / "classes.json").write_text(
        '[{"value": 0, "name": "field", "colour": "#112233"},'
        ' {"value": 1, "name": "road", "colour": "#445566"}]'
    )
    written = style_map(class_map, tmp_path / "classes.json", progress=False)
    assert all(path.is_file() for path in written)
    assert vectorize_map(class_map, tmp_path / "map.gpkg", progress=False) == 2
    table = geopandas.read_file(tmp_path / "map.gpkg").set_index("class_name")
    rows = class_statistics(class_map, tmp_path / "map.csv", progress=False)
    assert rows.set_index("class_name").area_m2.to_dict() == table.area_m2.to_dict()
    assert rows.area_m2[0] == 16 * 25
    assert list(rows.columns) == [
        "class_id", "class_name", "pixels", "area_m2", "area_ha", "share",
    ]  # fmt: skip
    assert (tmp_path / "map.csv").read_text() == format_statistics(rows)


@pytest.mark.parametrize(
    "use",
    [
        lambda path: class_statistics(path, progress=False),
        lambda path: vectorize_map(path, progress=False),
        show_map,
        show_scene,
    ],
)
def test_ground_control_points_of_a_map_are_named(class_map, tmp_path, use):
    path = tmp_path / "placed.tif"
    corners = [(row, col) for row in (0, 8) for col in (0, 8)]
    with rasterio.open(class_map) as source:
        profile = source.profile | dict(crs=None, transform=None)
        with rasterio.open(path, "w", **profile) as target:
            target.write(source.read())
            points = [GroundControlPoint(row, col, 10 + col, 50 - row) for row, col in corners]
            target.gcps = points, rasterio.CRS.from_epsg(4326)
    with pytest.warns(UserWarning, match="placed.tif: located by 4 ground control points"):
        use(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        style_map(path, progress=False)


def test_polygons_join_the_item_of_the_map(class_map, tmp_path):
    item = tmp_path / "map.json"
    other = '{"stac_version": "1.1.0", "assets": {"map": {"href": "./land.tif"}}}'
    for text in ("no item", "[]", other):  # other files of that name are left alone
        item.write_text(text)
        vectorize_map(class_map, tmp_path / "a.gpkg", overwrite=True, progress=False)
        assert item.read_text() == text
    item.write_text(other.replace("land", "map"))
    (tmp_path / "sub").mkdir()
    vectorize_map(class_map, tmp_path / "sub" / "b.parquet", progress=False)
    found = json.loads(item.read_text())["assets"]["vectors"]
    assert found["href"] == "./sub/b.parquet"
    assert found["file:size"] == (tmp_path / "sub" / "b.parquet").stat().st_size


def test_the_files_of_one_map_name_its_zones_once(class_map, tmp_path):
    vectorize_map(class_map, tmp_path / "zones.fgb", progress=False)
    rows = class_statistics(
        class_map, zones=tmp_path / "zones.fgb", zone_field="class_id", progress=False
    )
    # Each polygon of the map holds the pixels of its own class, and no others.
    assert rows.sort_values(["zone", "class_id"]).pixels.tolist() == [16, 0, 0, 48]


def test_nothing_is_written_where_zones_are_missing(class_map, tmp_path):
    with pytest.raises(SceneError, match="there are no zones"):
        class_statistics(class_map, tmp_path / "a.csv", zone_field="id", progress=False)
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_unknown_areas_are_left_empty(tmp_path):
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": 1, "width": 2}
    with rasterio.open(tmp_path / "map.tif", "w", **profile) as target:
        target.write(np.zeros((1, 1, 2), np.uint8))
    rows = class_statistics(tmp_path / "map.tif", progress=False)
    assert format_statistics(rows).splitlines()[1] == "0,class_0,2,,,1.000000"


def test_polygons_come_back_as_a_table(class_map, tmp_path):
    vectorize_map(class_map, tmp_path / "map.parquet", progress=False)
    wanted = geopandas.read_parquet(tmp_path / "map.parquet")
    found = vectorize_map(class_map, progress=False)
    assert found.crs == wanted.crs
    assert found.equals(wanted)


def test_map_as_a_data_array(class_map, tmp_path):
    pytest.importorskip("rioxarray")
    names, palette = ["field", "road"], [[17, 34, 51], [68, 85, 102]]
    array = read_class_map(class_map, names, palette)
    array[0, 0] = 255
    array.rio.write_nodata(255, inplace=True)
    areas = class_statistics(array, progress=False)
    assert dict(zip(areas.class_name, areas.pixels, strict=True)) == {"field": 15, "road": 48}
    assert areas.area_ha.tolist() == [15 * 25 / 1e4, 48 * 25 / 1e4]
    polygons = vectorize_map(array, progress=False)
    assert polygons.set_index("class_name").area_m2.to_dict() == {"field": 375, "road": 1200}
    assert polygons.crs == "EPSG:32645"
    vectorize_map(array, tmp_path / "map.gpkg", progress=False)
    style = (tmp_path / "map.qml").read_text()
    assert "road" in style and "68,85,102" in style
    with pytest.raises(SceneError, match="style_map needs a file"):
        style_map(array)


@pytest.mark.filterwarnings("ignore:.*no CRS")
def test_map_as_indexes():
    values = np.array([[0, 0, 1], [0, 255, 1]], np.uint8)
    areas = class_statistics(values, progress=False)
    assert areas.pixels.tolist() == [3, 2]
    assert areas.area_m2.isna().all()
    assert vectorize_map(values, progress=False).area.tolist() == [3, 2]


def test_names_and_colours_that_were_written_as_text(class_map, tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    names, palette = ["field", "road"], [[17, 34, 51], [68, 85, 102]]
    read_class_map(class_map, names, palette).rio.to_raster(tmp_path / "again.tif")
    with rioxarray.open_rasterio(tmp_path / "again.tif") as array:
        assert isinstance(array.attrs["classes"], str)
        assert class_statistics(array, progress=False).class_name.tolist() == names
        for wrong in (5, {0: "a", 1: "b"}, "field", [1, 2], None):
            array.attrs["classes"] = wrong
            found = class_statistics(array, progress=False).class_name.tolist()
            assert found == ["class_0", "class_1"]
        array.attrs |= dict(classes=names, palette=["red", "#ffffff"])
        assert class_statistics(array, progress=False).class_name.tolist() == names


def test_floats_keep_their_nodata_value(class_map):
    pytest.importorskip("rioxarray")
    array = read_class_map(class_map, [], [])
    array[0, 0] = 255
    for nodata in (255, -9999):
        values = array.astype("float32").where(array != 255, nodata)
        values = values.rio.write_nodata(nodata)
        assert class_statistics(values, progress=False).pixels.tolist() == [15, 48]


def test_zones_without_a_name(class_map, tmp_path):
    zones = vectorize_map(class_map, progress=False)
    zones["number"] = pd.array([1, None], dtype="Int64").astype(object)
    table = class_statistics(
        class_map, tmp_path / "a.csv", zones=zones, zone_field="number", progress=False
    )
    assert table.zone[0] == 1 and isinstance(table.zone[0], int)
    assert (tmp_path / "a.csv").read_text().splitlines()[-1].startswith(",")


def test_map_read_with_masked_values(class_map, tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    with rasterio.open(class_map, "r+") as source:
        source.nodata = 0
    wanted = class_statistics(class_map, progress=False)
    with rioxarray.open_rasterio(class_map, masked=True) as array:
        assert array.dtype.kind == "f"
        assert class_statistics(array, progress=False).equals(wanted)
        values = array.values[0]
    assert class_statistics(values, progress=False).pixels.tolist() == wanted.pixels.tolist()
    with pytest.raises(SceneError, match="not a class map"):
        class_statistics(values + 0.5, progress=False)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (vectorize_map, dict(min_area="x")),
        (vectorize_map, dict(simplify=-1)),
        (vectorize_map, dict(output=3)),
        (vectorize_map, dict(scores=np.zeros((8, 8)))),
        (class_statistics, dict(output=3)),
        (class_statistics, dict(zones=3)),
    ],
)
def test_options_of_the_wrong_kind(class_map, function, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        function(class_map, progress=False, **options)


def test_what_is_no_map_is_refused(tmp_path):
    for function in (class_statistics, vectorize_map):
        with pytest.raises(SceneError, match="is not a map"):
            function(3, progress=False)
        with pytest.raises(HookError, match="is not an image"):
            function(np.zeros(3), progress=False)
        with pytest.raises(SceneError, match="one band of integers"):
            function(np.zeros((3, 4, 4), np.uint8), progress=False)


def test_classes_from_a_table(class_map):
    table = pd.DataFrame(
        {"value": [0, 1], "name": ["field", "road"], "color": ["#112233", "#445566"]}
    )
    style_map(class_map, table, progress=False)
    assert class_statistics(class_map, progress=False).class_name.tolist() == ["field", "road"]
    style_map(class_map, table.to_dict("records"), overwrite=True, progress=False)
    floats = table.astype({"value": float})
    style_map(class_map, floats, overwrite=True, progress=False)
    tuples = table.assign(color=[(17, 34, 51), (68, 85, 102)])
    style_map(class_map, tuples, overwrite=True, progress=False)
    assert "68,85,102" in class_map.with_suffix(".qml").read_text()
    with pytest.raises(SceneError, match="values without name and colour"):
        style_map(class_map, table[:1], overwrite=True, progress=False)
    for wrong in (
        {},
        3,
        [],
        ["field"],
        [{"value": 0, "name": "field", "color": "red"}],
        [{"value": 0.5, "name": "a", "color": "#112233"}],
        [{"value": 0, "name": "a", "color": (1, 2, 300)}],
    ):
        with pytest.raises(SceneError, match="classes"):
            style_map(class_map, wrong, overwrite=True, progress=False)


@pytest.mark.parametrize("name", ["map.tif", "link.tif", "map.json", "zones.gpkg", "zones.dbf"])
def test_no_input_of_a_layer_is_overwritten(class_map, tmp_path, name):
    (tmp_path / "link.tif").symlink_to(class_map)
    with rasterio.open(class_map) as source:
        zones = geopandas.GeoDataFrame({"a": [1]}, geometry=[shapely.box(*source.bounds)])
        zones = zones.set_crs(source.crs)
    for end in (".gpkg", ".shp"):
        zones.to_file(tmp_path / f"zones{end}")
    item = {"stac_version": "1.1.0", "assets": {"map": {"href": f"./{class_map.name}"}}}
    class_map.with_suffix(".json").write_text(json.dumps(item))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    output, options = tmp_path / name, dict(overwrite=True, progress=False)
    with pytest.raises(SceneError, match="is an input"):
        if name == "map.json":
            vectorize_map(class_map, output, **options)
        else:
            zones_file = tmp_path / ("zones.shp" if name == "zones.dbf" else "zones.gpkg")
            class_statistics(class_map, output, zones=zones_file, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
