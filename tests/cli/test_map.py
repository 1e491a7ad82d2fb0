"""``hook map`` in this process: files, options, exit status."""

import json

import geopandas
import numpy as np
import pytest
import rasterio

from hook.cli import main


def _run(*argv):
    main(["map", *map(str, argv)])


def test_map_with_everything(seg_run, scenes, tmp_path, capsys):
    scene = scenes / "images" / "second.tif"
    out = tmp_path / "map.tif"
    options = ["--overlap", "8", "--batch-size", "3", "--co", "COMPRESS=LZW", "--nodata", "0"]
    more = ["--scores", "margin,probs", "--vectors", tmp_path / "v.gpkg", "--tta", "flip"]
    more += ["--min-area", "20", "--simplify", "1"]
    _run(*seg_run, scene, out, *options, *more)
    assert "3536 pixels" in capsys.readouterr().err  # 40 x 90 less the corner of 8 x 8
    with rasterio.open(out) as result, rasterio.open(scene) as source:
        assert result.compression.name == "lzw"
        assert np.array_equal(result.read(1) == result.nodata, source.dataset_mask() == 0)
    with rasterio.open(tmp_path / "map.scores.tif") as scores:
        assert scores.descriptions == ("margin", "water", "field", "town")
    polygons = geopandas.read_file(tmp_path / "v.gpkg")
    assert polygons.score.between(0.3, 1).all()  # of its class, the best of three

    with pytest.raises(SystemExit) as caught:
        _run(*seg_run, scene, out)
    assert caught.value.code == 1
    assert "map.tif" in capsys.readouterr().err
    _run(*seg_run, scene, out, "--overwrite", "--quiet")
    assert capsys.readouterr().err == ""
    _run(*seg_run, scene, out, "--resume", "--quiet")
    assert "map.tif: finished already" in capsys.readouterr().err


def test_a_warning_is_a_line_and_said_once(seg_run, write_scene, tmp_path, capsys):
    scene = write_scene(np.ones((2, 40, 40), np.uint16), crs=None, transform=None)
    _run(*seg_run, scene, tmp_path / "map.tif", "--window", "32", "--nodata", "inf", "-q")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("warning: ") for line in lines)
    assert "not georeferenced" in lines[0] + lines[1] and "nodata inf" in lines[0] + lines[1]


def test_dry_run_writes_nothing(seg_run, scenes, tmp_path, capsys):
    _run(*seg_run, scenes / "images" / "second.tif", tmp_path / "map.tif", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["windows", "memory", "disk", "time"]
    assert list(tmp_path.iterdir()) == []


def test_missing_scene(seg_run, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        _run(*seg_run, tmp_path / "none.tif", tmp_path / "m.tif")
    assert caught.value.code == 1
    assert "none.tif" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        ["--overlap", "-1"],
        ["--overlap", "1.5"],
        ["--window", "0"],
        ["--bidx", "0,1"],
        ["--bidx", "red"],
        ["--nodata", "none"],
        ["--co", "COMPRESS"],
        ["--scores", "sure"],
        ["--blend", "cut"],
        ["--tta", "some"],
        ["--min-area", "-1"],
        ["--simplify", "much"],
    ],
)
def test_bad_options_exit_with_two(option, capsys):
    with pytest.raises(SystemExit) as caught:
        _run("c", "k", "in.tif", "out.tif", *option)
    assert caught.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_old_spelling_of_the_time(seg_run, scenes, tmp_path, capsys):
    scene, out = scenes / "images" / "first.tif", tmp_path / "map.tif"
    _run(*seg_run, scene, out, "--taken", "2024-05-31", "--quiet")
    assert capsys.readouterr().err == "warning: --taken is deprecated: use --datetime\n"
    item = json.loads(out.with_suffix(".json").read_text())
    assert item["properties"]["start_datetime"].startswith("2024-05-31")
