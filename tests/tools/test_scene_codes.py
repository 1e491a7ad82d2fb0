"""scene_codes: what a codec keeps of scenes, bytes, errors and pictures."""

import json
import sys

import numpy as np
import pytest
import rasterio

from hook.apis import encode


@pytest.fixture
def run(load_tool, monkeypatch, tmp_path):
    """Run the tool in this process, and return its report."""

    def run(*arguments):
        tool = load_tool("analysis_tools/scene_codes.py")
        command = ["scene_codes.py", *arguments, "--out", tmp_path / "out", "--threads", 1]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        tool.main()
        return json.loads((tmp_path / "out/report.json").read_text())

    return run


def fields(height, width, dtype):
    rng = np.random.default_rng(0)
    truth = np.add.outer(np.arange(height), np.arange(width)) // 17 % 3
    return (truth * 80 + 40 + rng.integers(0, 20, (2, height, width))).astype(dtype)


def test_scenes_come_back_beside_other_codecs(run, codec_run, write_scene, tmp_path):
    pytest.importorskip("constriction", reason="the codecs extra is not installed")
    values = fields(290, 300, "int16")
    values[:, :30, :40] = -9999
    first = write_scene(values, "first.tif", nodata=-9999)
    with rasterio.open(first, "r+") as target:
        target.descriptions = ("red", "nir")
    values = fields(90, 110, "float32")
    values[:, 20:30] = np.nan
    second = write_scene(values, "second.tif", nodata=np.nan)
    report = run(*codec_run, first, *codec_run, second, "--names", "a", "b")
    kept, sizes, errors = report["kept"], report["bytes"], report["errors"]
    assert [row["scene"] for row in kept] == ["a", "b"]
    assert not [cell for row in kept for cell in row.values() if "->" in cell or "differ" in cell]
    assert kept[0]["size"] == "290 x 300" and kept[0]["bands"] == "red, nir"
    assert kept[0]["nodata"] == "-9999.0" and kept[1]["nodata"] == "nan"
    assert kept[1]["valid pixels"] == "88.89 %"
    assert 0 < sizes[0]["packed"] < sizes[0]["codes"] < sizes[0]["lossless JPEG 2000"]
    assert sizes[0]["lossless JPEG 2000"] < sizes[0]["deflate"] < 290 * 300 * 4
    assert sizes[1]["lossless JPEG 2000"] is None  # of floating point
    expected = encode(codec_run, first, tmp_path / "codes.tif", progress=False)
    assert [row["RMSE codes"] for row in errors[:2]] == pytest.approx(list(expected.rmse))
    assert [row["PSNR codes"] for row in errors[:2]] == pytest.approx(list(expected.psnr))
    for row in errors:
        more, fewer = (row[f"PSNR JPEG 2000, bytes of {kind}"] for kind in ("codes", "packed"))
        assert 60 > more > fewer > 5
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"a.png", "a_details.png", "b.png", "a.codes.tif", "a.hkc", "table.md"} <= names
    assert "b_details.png" not in names  # smaller than a window


def test_what_is_not_kept_is_shown(load_tool, write_scene):
    tool = load_tool("analysis_tools/scene_codes.py")
    values = fields(20, 30, "uint8")
    one = tool.Scene(write_scene(values, "one.tif", nodata=0), None)
    values[:, 3, :5] = 0
    other = tool.Scene(write_scene(values.astype("uint16"), "other.tif", nodata=0), None)
    row = tool.same_or_both(one, other)
    assert row["type"] == "uint8 -> uint16" and row["valid pixels"] == "100.00 %, 5 differ"
    assert row["size"] == "20 x 30"


@pytest.mark.parametrize("words", [["c", "k"], ["c", "k", "a.tif", "c", "k", "b/a.tif"]])
def test_incomplete_arguments(run, words, capsys):
    with pytest.raises(SystemExit):
        run(*words)
    assert "give" in capsys.readouterr().err
