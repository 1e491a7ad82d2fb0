"""Map layers from a finished class map, as a notebook calls for them."""

import json

import geopandas
import numpy as np
import pytest
import rasterio

from hook.apis import class_statistics, style_map, vectorize_map
from hook.apis.layers import format_statistics
from hook.errors import SceneError


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
    assert {row.class_name: row.area_m2 for row in rows} == table.area_m2.to_dict()
    assert rows[0].area_m2 == 16 * 25
    assert (tmp_path / "map.csv").read_text() == format_statistics(rows)


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
    assert [row.pixels for row in sorted(rows)] == [16, 0, 0, 48]


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
