import json
import sys

import numpy as np
import pytest


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
    with pytest.raises(SystemExit):
        run(tool, monkeypatch, "eurosat", *options, "--rows", "none")
    assert "'none' is not a row of eurosat" in capsys.readouterr().err


def test_regions_of_a_segmentation_are_measured(tool, arrays, monkeypatch):
    options = ["--arrays", arrays, "--out", arrays / "runs", "--seeds", 0, "--device", "cpu"]
    options += ["--rates", 1e-3, "--rows", "regions without labels"]
    run(tool, monkeypatch, "banepa", *options, "--json", arrays / "table.json")
    rows = json.loads((arrays / "table.json").read_text())["banepa regions"]
    assert [(row["row"], row["regions"]) for row in rows] == [
        (name, count)
        for name in ("merged by colour", "regions without labels")
        for count in (16, 64, 256)
    ]
    colour, learned = rows[1], rows[4]
    difference, low, high = learned["ASA difference"]
    assert difference == pytest.approx(learned["ASA"] - colour["ASA"])
    assert low <= difference <= high
    (path,) = (arrays / "runs").iterdir()
    regions = json.loads(path.read_text())["test"]["regions"]
    assert len(regions) == 3 and set(regions[0]) == {"16", "64", "256"}
    accuracy, boundary, variation, compact = regions[0]["256"]
    assert 0.5 < accuracy <= 1 and 0 < boundary <= 1 and 0 < variation < 1 and 0 < compact < 0.8
