"""``hook predict`` in this process: output, exit status, messages."""

import csv
import io

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint

from hook.cli import main


@pytest.fixture
def picture(tmp_path):
    """A small RGB image."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (16, 16, 3), np.uint8)).save(path)
    return path


def _run(*argv):
    main(["predict", *map(str, argv)])


def test_classification_to_standard_output(cls_run, picture, capsys):
    _run(*cls_run, picture, picture)
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["file", "class", "score_dark", "score_light", "score_noisy"]
    assert len(rows) == 3
    assert rows[1][0] == str(picture)
    assert sum(map(float, rows[1][2:])) == pytest.approx(1, abs=1e-5)


def test_classification_to_a_file_is_the_same(cls_run, picture, tmp_path, capsys):
    _run(*cls_run, picture)
    printed = capsys.readouterr().out
    _run(*cls_run, picture, "--out", tmp_path / "p.csv", "--quiet")
    assert (tmp_path / "p.csv").read_text().split() == printed.split()
    assert capsys.readouterr().err == ""


def test_masks(seg_run, scenes, tmp_path):
    # 32 x 32 pixels of a scene of 70 x 50.
    with rasterio.open(scenes / "images" / "first.tif") as source:
        profile = source.profile | {"height": 32, "width": 32}
        with rasterio.open(tmp_path / "chip.tif", "w", **profile) as sink:
            sink.write(source.read(window=rasterio.windows.Window(10, 10, 32, 32)))
            sink.descriptions = source.descriptions
    _run(*seg_run, tmp_path / "chip.tif", "--out", tmp_path / "masks", "--tta", "d4", "-q")
    with rasterio.open(tmp_path / "masks" / "chip.tif") as result:
        assert result.crs.to_epsg() == 32633
        assert result.read(1).max() < 3


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_masks_keep_the_place_of_a_world_file(seg_run, scenes, tmp_path, capsys):
    grid = rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 3e6)
    with rasterio.open(scenes / "images" / "first.tif") as source:
        profile = source.profile | dict(height=32, width=32, crs=None, transform=None)
        with rasterio.open(tmp_path / "chip.tif", "w", **profile) as sink:
            sink.write(source.read(window=rasterio.windows.Window(10, 10, 32, 32)))
            sink.descriptions = source.descriptions
            corners = [(row, col) for row in (0, 32) for col in (0, 32)]
        (tmp_path / "chip.tfw").write_text("0.5\n0\n0\n-0.5\n300000.25\n2999999.75\n")
        _run(*seg_run, tmp_path / "chip.tif", "--out", tmp_path / "mask.tif", "-q")
        (tmp_path / "chip.tfw").unlink()
    with rasterio.open(tmp_path / "mask.tif") as result:
        assert result.transform.almost_equals(grid) and result.crs is None
    with rasterio.open(tmp_path / "chip.tif", "r+") as sink:
        points = [GroundControlPoint(row, col, col, -row) for row, col in corners]
        sink.gcps = points, rasterio.CRS.from_epsg(4326)
    capsys.readouterr()
    _run(*seg_run, tmp_path / "chip.tif", "--out", tmp_path / "other.tif", "-q")
    assert "chip.tif: located by 4 ground control points" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.png"], "none.png does not exist"),
        (["{picture}", "--device", "nowhere"], "device nowhere"),
        (["{picture}", "--out", "x.txt"], "CSV"),
    ],
)
def test_bad_input_exits_with_one(cls_run, picture, arguments, says, capsys):
    with pytest.raises(SystemExit) as caught:
        _run(*cls_run, *(a.format(picture=picture) for a in arguments))
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert says in message
    assert message.startswith("error: ")


def test_a_segmentation_needs_out(seg_run, picture, capsys):
    with pytest.raises(SystemExit) as caught:
        _run(*seg_run, picture)
    assert caught.value.code == 1
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["c", "k"], ["c", "k", "f", "--batch-size", "0"]])
def test_bad_options_exit_with_two(arguments):
    with pytest.raises(SystemExit) as caught:
        _run(*arguments)
    assert caught.value.code == 2


def test_help_and_version(capsys):
    for arguments in (["--version"], ["--help"], ["predict", "--help"], ["map", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    assert "CONFIG" in capsys.readouterr().out
