"""Tools for maps: accuracy, benchmark, kill and resume, pictures."""

import json
import shutil
import sys

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from PIL import Image
from rasterio.transform import from_origin
from rasterio.warp import calculate_default_transform
from torchmetrics.functional.classification import multiclass_jaccard_index

from hook.errors import DataError
from hook.geo.measure import metres_per_pixel
from hook.tokenizers import HookTokenizer


@pytest.fixture
def run(load_tool, monkeypatch):
    """Run a tool in this process."""

    def run(name, *arguments):
        tool = load_tool(f"analysis_tools/{name}.py")
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        tool.main()
        return tool

    return run


def write(path, values, crs="EPSG:32633", transform=None, **profile):
    height, width = values.shape
    transform = transform or from_origin(5e5, 5e6, 2, 2)
    profile |= dict(driver="GTiff", count=1, height=height, width=width, dtype="uint8")
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as target:
        target.write(values, 1)
    return path


def test_accuracy_of_a_map_equals_torchmetrics(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    found = rng.integers(0, 3, (64, 80)).astype(np.uint8)
    found[:5] = 255
    classes = write(tmp_path / "map.tif", found, nodata=255)
    (masks := tmp_path / "masks").mkdir()
    truth = np.where(rng.random(found.shape) < 0.6, found % 3, rng.integers(0, 3, found.shape))
    truth = truth.astype(np.uint8)
    truth[20:22] = 255
    write(masks / "a.tif", truth[:, :40])
    write(masks / "b.tif", truth[:, 40:], transform=from_origin(5e5 + 80, 5e6, 2, 2))
    write(masks / "unused.tif", truth * 0)
    (tmp_path / "list.txt").write_text("a\nb.tif\n")
    run("map_accuracy", classes, masks, "--list", tmp_path / "list.txt")
    valid = (found != 255) & (truth != 255)
    pair = (torch.from_numpy(a[valid].astype(np.int64)) for a in (found, truth))
    expected = 100 * multiclass_jaccard_index(*pair, num_classes=3, average=None).numpy()
    printed = capsys.readouterr().out
    for value in expected:
        assert f" {value:.2f} " in printed
    assert f"2 masks, {valid.sum()} pixels, mIoU {expected.mean():.2f}" in printed
    write(masks / "a.png", truth[:, :40])
    with pytest.raises(SystemExit):
        run("map_accuracy", classes, masks, "--list", tmp_path / "list.txt")
    message = capsys.readouterr().err
    assert "two files are named a" in message and "a.png, " in message and "a.tif" in message
    (tmp_path / "list.txt").write_text("a\nmissing\n")
    with pytest.raises(SystemExit):
        run("map_accuracy", classes, masks, "--list", tmp_path / "list.txt")
    assert "missing" in capsys.readouterr().err


def test_masks_in_another_crs_are_compared_where_they_lie(load_tool, tmp_path):
    tool = load_tool("analysis_tools/map_accuracy.py")
    found = np.zeros((100, 100), np.uint8)
    found[:, 50:] = 1
    classes = write(tmp_path / "map.tif", found, nodata=255)
    with rasterio.open(classes) as source:
        transform, width, height = calculate_default_transform(
            source.crs, "EPSG:4326", 100, 100, *source.bounds
        )
        with rasterio.vrt.WarpedVRT(
            source, crs="EPSG:4326", transform=transform, width=width, height=height
        ) as warped:
            truth = warped.read(1)
    mask = write(tmp_path / "mask.tif", truth, crs="EPSG:4326", transform=transform)
    counts = tool.compare(classes, [mask], 255)
    assert np.array_equal(counts, np.diag(np.diag(counts))) and counts.sum() > 9000
    far = write(tmp_path / "far.tif", found, transform=from_origin(9e5, 5e6, 2, 2))
    with pytest.raises(DataError, match="no pixel in common"):
        tool.compare(classes, [far], 255)
    with pytest.raises(DataError, match="no masks"):
        tool.list_masks([tmp_path / "map.txt"], None)


def test_scenes_are_measured_beside_bare_model_and_slide(tools, seg_run, tmp_path):
    config = tmp_path / "three_bands.py"
    config.write_text(
        f"_base_ = [{str(seg_run[0])!r}]\n"
        "model = dict(backbone=dict(tokenizer=dict(in_channels=3)),\n"
        "             data_preprocessor=dict(mean=[1.0] * 3, std=[1.0] * 3))\n"
    )
    arguments = [config, "--size", 96, 128, "--repeats", 1, "--heights", 64]
    arguments += [
        "--pixelwise",
        "600x700",
        "--slide-width",
        96,
        "--json",
        tmp_path / "r.json",
        "--out",
        tmp_path / "r.png",
    ]
    done = tools.run("tools/analysis_tools/scene_benchmark.py", *arguments)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["rates"]["windows"] == 4 * 5 and report["rates"]["map_rate_over_bare"] > 0
    (point,) = report["sizes"]
    assert point["map"]["seconds"] > 0 and point["slide"]["peak_memory_bytes"] > 1 << 27
    assert "% of the bare rate" in done.stdout
    (point,) = report["pixelwise"]
    assert (point["height"], point["width"]) == (600, 700)
    assert point["peak_memory_bytes"] >= point["memory_before_bytes"] > 1 << 27
    assert point["peak_memory_bytes"] == pytest.approx(point["estimated_memory_bytes"], rel=0.2)
    assert point["disk_bytes"] > 1000 and point["accumulator_bytes"] == 512 * 700 * 3 * 4
    picture = np.asarray(Image.open(tmp_path / "r.png"))
    assert picture.std() > 10


def test_local_workers_are_measured_beside_one_process(tools, seg_run, scenes, tmp_path):
    pytest.importorskip("distributed", reason="the cluster extra is not installed")
    options = ["--scene", scenes / "images" / "second.tif", "--checkpoint", seg_run[1]]
    options += ["--skip-rates", "--repeats", 1, "--workers", 1, "--json", tmp_path / "r.json"]
    done = tools.run("tools/analysis_tools/scene_benchmark.py", seg_run[0], *options)
    alone, shared = json.loads((tmp_path / "r.json").read_text())["workers"]
    assert (alone["workers"], alone["over_one_process"], shared["workers"]) == (0, 1, 1)
    assert shared["start_seconds"] > alone["start_seconds"] and shared["seconds"] > 0
    assert "of one process" in done.stdout


def test_codes_are_measured_beside_the_networks(tools, repo, tmp_path):
    config = repo / "configs/autoencoders/vq/vq-1k_s8_eurosat-2k-64.py"
    options = ["--codes", "--size", 64, 96, "--window", 64, "--batch", 2, "--repeats", 1]
    done = tools.run(
        "tools/analysis_tools/scene_benchmark.py", config, *options, "--json", tmp_path / "r.json"
    )
    codes = json.loads((tmp_path / "r.json").read_text())["codes"]
    assert list(codes) == ["encode", "encode, no errors", "decode"]
    for one in codes.values():
        ((bare, took),) = one["bare_and_run_seconds"]
        assert 0 < bare and one["rate"] == bare / took
    assert "decode:" in done.stdout


def test_regions_are_measured_beside_slic(load_tool, seg_run, tmp_path, monkeypatch):
    tool = load_tool("analysis_tools/scene_benchmark.py")
    config = tmp_path / "three_bands.py"
    config.write_text(
        f"_base_ = [{str(seg_run[0])!r}]\n"
        "model = dict(backbone=dict(tokenizer=dict(in_channels=3)),\n"
        "             data_preprocessor=dict(mean=[1.0] * 3, std=[1.0] * 3))\n"
    )

    def build(args, original=tool.build):
        model = original(args)
        model.backbone.tokenizer.preset = "objects"  # a stand-in, grouped by features of the seeds
        return model

    monkeypatch.setattr(tool, "build", build)
    monkeypatch.setattr(HookTokenizer, "grouping", lambda self, seeds: seeds.features, False)
    options = ["--skip-rates", "--size", "96", "128", "--repeats", "1", "--regions", "30"]
    monkeypatch.setattr(
        sys, "argv", ["tool", str(config), *options, "--json", f"{tmp_path}/r.json"]
    )
    tool.main()
    found = json.loads((tmp_path / "r.json").read_text())["regions"]
    assert found["regions"] == 30 and found["superpixels"] > 5
    assert 0 < found["merging_seconds"][0] < found["seconds"][0] and found["over_slic"] > 0


def test_kills_are_counted_and_resumed(run, seg_run, scenes, tmp_path, capsys):
    scene = scenes / "images" / "second.tif"
    run("kill_and_resume", *seg_run, scene, "--kills", 2, "--", "--overlap", "0.9")
    printed = capsys.readouterr().out
    assert "kill 2:" in printed and "2 kills in" in printed
    with pytest.raises(SystemExit):
        run("kill_and_resume", *seg_run, tmp_path / "none.tif", "--kills", 1)
    assert "hook map failed" in capsys.readouterr().err


def test_kills_of_coding(run, codec_run, scenes, capsys):
    scene = scenes / "images" / "second.tif"
    run("kill_and_resume", *codec_run, scene, "--kills", 1, "--command", "encode")
    assert "1 kills in" in capsys.readouterr().out


def test_a_scene_is_drawn_beside_its_map(run, load_tool, tmp_path, capsys):
    values = np.zeros((60, 80), np.uint8)
    values[:, 40:] = 1
    found = values.copy()
    found[:10] = 255
    scene = write(tmp_path / "scene.tif", values * 200 + 20)
    classes = write(tmp_path / "map.tif", found, nodata=255)
    with rasterio.open(classes, "r+") as target:
        target.write_colormap(1, {0: (10, 20, 30, 255), 1: (200, 100, 0, 255)})
    box = shapely.box(5e5 + 20, 5e6 - 100, 5e5 + 60, 5e6 - 60)
    polygons = geopandas.GeoSeries([box], crs="EPSG:32633").to_crs(4326)
    polygons.to_file(tmp_path / "truth.gpkg")
    tool = load_tool("analysis_tools/draw_map.py")
    picture, grid = tool.read_scene(str(scene), None, 40)
    assert picture.shape == (30, 40, 3)
    assert metres_per_pixel(30, 40, grid["transform"], grid["crs"]) == pytest.approx(4)
    mapped, names, colours = tool.read_map(str(classes), grid)
    assert np.array_equal(mapped[5:, ::20][:, :2], np.repeat([[0, 1]], 25, 0))
    assert (mapped[:5] == -1).all() and names == ["class_0", "class_1"]
    assert colours == [(10, 20, 30), (200, 100, 0)]
    drawn = tool.draw_outlines(picture, str(tmp_path / "truth.gpkg"), grid)
    rows, columns = np.nonzero((drawn == tool.OUTLINE).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (14, 24, 4, 14)
    # A part of the scene, from its bounds.
    _, part = tool.read_scene(str(scene), [5e5 + 40, 5e6 - 60, 5e5 + 120, 5e6 - 20], 500)
    assert (part["height"], part["width"]) == (20, 40)
    assert part["transform"] @ (0, 0) == (5e5 + 40, 5e6 - 20)

    out = tmp_path / "sub" / "map.png"
    options = ["--outlines", tmp_path / "truth.gpkg", "--title", "T", "--attribution", "A"]
    run("draw_map", scene, classes, out, *options)
    with Image.open(out) as image:
        pixels = np.asarray(image)
    for colour in ((200, 100, 0), (10, 20, 30)):  # of the legend
        assert (pixels == colour).all(-1).sum() > 50
    for wrong, message in (
        (["--bounds", 0, 0, 1, 1], "are outside"),
        (["--side", 3], "--side"),
        (["--outlines", tmp_path / "none.gpkg"], "cannot be read"),
    ):
        with pytest.raises(SystemExit):
            run("draw_map", scene, classes, tmp_path / "x.png", *wrong)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)
def test_faults_of_the_system_end_in_words(tools, tmp_path):
    log, options = tmp_path / "faults.jsonl", ("--trials", 2, "--commands", "vectorize")
    for _ in range(2):  # the second run finds all trials in the log
        tools.run("tools/analysis_tools/faults.py", *options, "--log", log)
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        assert [row["number"] for row in rows] == [0, 1]
    assert {row["outcome"] for row in rows} == {"ok"}
    assert any(row["status"] == 1 and row["said"].startswith("error: ") for row in rows)


def test_damaged_rasters_and_layers_end_in_words(tools, tmp_path):
    log, cases = tmp_path / "fuzz.jsonl", ("--rasters", 8, "--vectors", 8)
    for _ in range(2):  # the second run finds all cases in the log
        tools.run("tools/analysis_tools/fuzz.py", *cases, "--log", log)
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(rows) == 16
    assert {row["outcome"] for row in rows} == {"done", "refused"}
    assert all(row["message"] for row in rows if row["outcome"] == "refused")
