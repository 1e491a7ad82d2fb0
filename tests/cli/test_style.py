"""``hook style`` in this process: files, exit status."""

import numpy as np
import pytest
import rasterio
from rio_cogeo import cog_validate

from hook.cli import main
from hook.geo.styles import read_category_names


@pytest.fixture
def class_map(tmp_path):
    """A COG of the values 0 and 2."""
    values = np.zeros((600, 700), np.uint8)
    values[:, 300:] = 2
    values[:5] = 255
    profile = {"driver": "COG", "count": 1, "dtype": "uint8", "crs": "EPSG:32645"}
    profile |= {"height": 600, "width": 700, "transform": rasterio.Affine(2, 0, 3e5, 0, -2, 3e6)}
    with rasterio.open(tmp_path / "map.tif", "w", nodata=255, **profile) as target:
        target.write(values, 1)
    return tmp_path / "map.tif"


def _run(*argv):
    main(["style", *map(str, argv)])


def test_names_and_colours_from_a_list(class_map, tmp_path, capsys):
    (tmp_path / "classes.csv").write_text("value,name,colour\n0,land,#00ff00\n2,sea,#0000ff\n")
    before = class_map.read_bytes()
    _run(class_map, "--classes", tmp_path / "classes.csv")
    captured = capsys.readouterr().err
    assert "map.tif.aux.xml" in captured and "map.qml" in captured
    assert class_map.read_bytes() == before and cog_validate(class_map)[0]
    assert read_category_names(class_map) == ["land", "", "sea"]
    with rasterio.open(class_map) as source:
        assert source.colormap(1)[2] == (0, 0, 255, 255)

    with pytest.raises(SystemExit) as caught:
        _run(class_map, "--classes", tmp_path / "classes.csv")
    assert caught.value.code == 1 and "allow overwriting" in capsys.readouterr().err
    # Names and colours of the map itself are kept.
    _run(class_map, "--overwrite", "--quiet")
    assert capsys.readouterr().err == ""
    assert read_category_names(class_map) == ["land", "", "sea"]
    with rasterio.open(class_map) as source:
        assert source.colormap(1)[0] == (0, 255, 0, 255)


def test_defaults_for_a_bare_map(class_map):
    _run(class_map)
    assert read_category_names(class_map) == ["class_0", "class_1", "class_2"]
    with rasterio.open(class_map) as source:
        table = source.colormap(1)
    assert len({table[0], table[1], table[2]}) == 3


def test_bad_input_exits_with_one(class_map, tmp_path, capsys):
    (tmp_path / "short.csv").write_text("value,name,colour\n0,land,#00ff00\n")
    for arguments, message in (
        ((tmp_path / "none.tif",), "none.tif"),
        ((class_map, "--classes", tmp_path / "none.csv"), "none.csv"),
        ((class_map, "--classes", tmp_path / "short.csv"), "found: 2"),
    ):
        with pytest.raises(SystemExit) as caught:
            _run(*arguments)
        assert caught.value.code == 1
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "short.csv"]
