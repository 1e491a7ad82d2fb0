"""``hook stats`` in this process: output, files, exit status."""

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from hook.cli import main


@pytest.fixture
def class_map(tmp_path):
    """A map of two classes, nodata in a corner, two zones."""
    values = np.zeros((1, 10, 20), np.uint8)
    values[:, :, 15:], values[:, 0, 0] = 1, 255
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32645"}
    profile |= {"height": 10, "width": 20, "transform": rasterio.Affine(10, 0, 3e5, 0, -10, 3e6)}
    with rasterio.open(tmp_path / "map.tif", "w", nodata=255, **profile) as target:
        target.write(values)
    boxes = [shapely.box(3e5, 2999900, 3e5 + 100, 3e6), shapely.box(3e5 + 100, 0, 3e5 + 200, 3e6)]
    table = geopandas.GeoDataFrame({"name": ["west", "east"]}, geometry=boxes, crs=32645)
    table.to_file(tmp_path / "zones.gpkg")
    return tmp_path / "map.tif"


def _run(*argv):
    main(["stats", *map(str, argv)])


def test_table_on_standard_output(class_map, capsys):
    _run(class_map)
    assert capsys.readouterr().out.splitlines() == [
        "class_id,class_name,pixels,area_m2,area_ha,share",
        "0,class_0,149,14900.000,1.4900000,0.748744",
        "1,class_1,50,5000.000,0.5000000,0.251256",
    ]


def test_zones_into_a_file(class_map, tmp_path, capsys):
    output = tmp_path / "out.csv"
    arguments = ["--zones", tmp_path / "zones.gpkg", "--out", output]
    _run(class_map, *arguments, "--zone-field", "name")
    captured = capsys.readouterr()
    assert captured.out == "" and "out.csv: 4 rows" in captured.err
    assert output.read_text().splitlines() == [
        "zone,class_id,class_name,pixels,area_m2,area_ha,share",
        "west,0,class_0,99,9900.000,0.9900000,1.000000",
        "west,1,class_1,0,0.000,0.0000000,0.000000",
        "east,0,class_0,50,5000.000,0.5000000,0.500000",
        "east,1,class_1,50,5000.000,0.5000000,0.500000",
    ]
    with pytest.raises(SystemExit) as caught:
        _run(class_map, *arguments)
    assert caught.value.code == 1
    assert "out.csv: exists already" in capsys.readouterr().err
    _run(class_map, *arguments, "--overwrite", "--quiet")
    assert capsys.readouterr().err == ""
    assert output.read_text().splitlines()[1].startswith("1,0,class_0,99")  # the feature's id


def test_bad_input_exits_with_one(class_map, tmp_path, capsys):
    for arguments, message in (
        ((tmp_path / "none.tif",), "none.tif"),
        ((class_map, "--zones", tmp_path / "none.gpkg"), "none.gpkg"),
        ((class_map, "--zones", tmp_path / "zones.gpkg", "--zone-field", "x"), "no field 'x'"),
        ((class_map, "--zone-field", "name"), "there are no zones"),
        ((class_map, "--overwrite", "--out", tmp_path / "map.json"), "a name ending in .csv"),
    ):
        with pytest.raises(SystemExit) as caught:
            _run("--out", tmp_path / "out.csv", *arguments)
        assert caught.value.code == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
