"""``hook regions`` in this process: files, options, exit status."""

import geopandas
import pytest

from hook.cli import main


def _run(*argv):
    main(["regions", *map(str, argv)])


def test_regions_with_everything(seg_run, scenes, tmp_path, capsys):
    scene = scenes / "images" / "second.tif"
    out = tmp_path / "r.gpkg"
    options = ["--overlap", "8", "--batch", "3", "--bidx", "2,1", "--nodata", "0", "--window", "20"]
    more = [
        "--explode",
        "--merge",
        "--merge-threshold",
        "0.99",
        "--num-tokens",
        "3",
        "--layer",
        "t",
    ]
    _run(*seg_run, scene, out, *options, *more)
    assert "3536 pixels" in capsys.readouterr().err  # 40 x 90 less the corner of 8 x 8
    table = geopandas.read_file(out, layer="t")
    assert set(table.geom_type) == {"Polygon"} and table.token_id.max() == 2
    assert table.area.sum() == 3536 * 4

    with pytest.raises(SystemExit) as caught:
        _run(*seg_run, scene, out)
    assert caught.value.code == 1
    assert "r.gpkg: exists already" in capsys.readouterr().err
    _run(*seg_run, scene, out, "--overwrite", "--quiet")
    assert capsys.readouterr().err == ""
    _run(*seg_run, scene, out, "--resume", "--quiet")
    assert "r.gpkg: finished already" in capsys.readouterr().err


def test_missing_scene(seg_run, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        _run(*seg_run, tmp_path / "none.tif", tmp_path / "r.parquet")
    assert caught.value.code == 1
    assert "none.tif" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        ["--overlap", "-1"],
        ["--window", "0"],
        ["--bidx", "red"],
        ["--nodata", "none"],
        ["--num-tokens", "0"],
        ["--merge-threshold", "2"],
        ["--merge-threshold", "0.5"],  # without --merge
        ["--tta", "flip"],
    ],
)
def test_bad_options_exit_with_two(option, capsys):
    with pytest.raises(SystemExit) as caught:
        _run("c", "k", "in.tif", "out.parquet", *option)
    assert caught.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_old_spelling_of_the_smallest_region(seg_run, scenes, tmp_path, capsys):
    scene = scenes / "images" / "second.tif"
    _run(*seg_run, scene, tmp_path / "old.gpkg", "--min-region", "9", "--quiet")
    warning = "warning: --min-region is deprecated: use --min-region-pixels\n"
    assert capsys.readouterr().err == warning
    _run(*seg_run, scene, tmp_path / "new.gpkg", "--min-region-pixels", "9", "--quiet")
    old, new = (geopandas.read_file(tmp_path / name) for name in ("old.gpkg", "new.gpkg"))
    assert old.equals(new)
