"""``hook vectorize`` in this process: files, options, exit status."""

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from hook.cli import main


@pytest.fixture
def class_map(tmp_path):
    """A map of three classes and its confidence."""
    values = np.kron(np.random.default_rng(0).integers(0, 3, (6, 7)), np.ones((5, 5), int))
    values[12, 12] = (values[12, 12] + 1) % 3
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32645"}
    profile |= {"height": 30, "width": 35, "transform": rasterio.Affine(2, 0, 3e5, 0, -2, 3e6)}
    for name in ("map.tif", "scores.tif"):
        with rasterio.open(tmp_path / name, "w", **profile) as target:
            target.write(values.astype(np.uint8), 1)
    return tmp_path / "map.tif"


def _run(*argv):
    main(["vectorize", *map(str, argv)])


def test_polygons_with_everything(class_map, tmp_path, capsys):
    output = tmp_path / "out.gpkg"
    options = ["--min-area", "5", "--simplify", "4", "--layer", "land"]
    _run(class_map, output, *options, "--scores", tmp_path / "scores.tif")
    table = geopandas.read_file(output, layer="land")
    assert f"out.gpkg: {len(table)} polygons" in capsys.readouterr().err
    fields = ["class_id", "class_name", "score", "area_m2", "perimeter_m", "geometry"]
    assert table.columns.tolist() == fields
    assert table.area_m2.sum() == pytest.approx(30 * 35 * 4) and table.area_m2.min() > 5
    assert shapely.coverage_is_valid(table.geometry.values)

    before = output.read_bytes()
    with pytest.raises(SystemExit) as caught:
        _run(class_map, output)
    assert caught.value.code == 1 and output.read_bytes() == before
    assert "out.gpkg: exists already" in capsys.readouterr().err
    _run(class_map, output, "--overwrite", "--quiet")
    assert capsys.readouterr().err == ""
    assert len(geopandas.read_file(output)) > len(table)


def test_bad_files_exit_with_one(class_map, tmp_path, capsys):
    for arguments, message in (
        ((tmp_path / "none.tif", tmp_path / "a.gpkg"), "none.tif"),
        ((class_map, tmp_path / "a.shp"), "a.shp: unknown vector format"),
        ((class_map, tmp_path / "no" / "a.gpkg"), "a.gpkg"),
        ((class_map, tmp_path / "a.gpkg", "--scores", tmp_path / "none.tif"), "none.tif"),
    ):
        with pytest.raises(SystemExit) as caught:
            _run(*arguments)
        assert caught.value.code == 1
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "scores.tif"]


@pytest.mark.parametrize("option", ["--min-area", "--simplify"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "much"])
def test_bad_options_exit_with_two(option, value, capsys):
    with pytest.raises(SystemExit) as caught:
        _run("map.tif", "out.gpkg", f"{option}={value}")
    assert caught.value.code == 2
    assert option in capsys.readouterr().err
