"""few_labels: maps from a few labelled regions, compared with the masks."""

import json
import sys

import numpy as np
import pytest

from hook.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("analysis_tools/few_labels.py")


def run(tool, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["few_labels.py", *map(str, arguments)])
    tool.main.__wrapped__()


@pytest.fixture
def lists(tmp_path):
    """One scene for labels, one for the test."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.txt").write_text(f"{name}.tif\n")
    return "--labels-from", tmp_path / "first.txt", "--measured-on", tmp_path / "second.txt"


def test_report_and_table(tool, seg_run, lists, tmp_path, monkeypatch, capsys):
    report = tmp_path / "few.json"
    options = ("--per-class", 1, "--draws", 3, "--num-tokens", 4, "--json", report)
    run(tool, monkeypatch, seg_run[0], "--model", "tiny", *seg_run, 16, *lists, *options)
    found = json.loads(report.read_text())
    tokens, seeds, bands, pixels, slic = found["rows"]
    kinds = [row["features"] for row in found["rows"]]
    assert kinds == ["tokens", "seeds", "bands", "pixels", "bands"]
    assert tokens["number"] == seeds["number"] == bands["number"]
    assert seeds["draws"] != tokens["draws"]
    assert abs(slic["number"] - tokens["number"]) <= 0.2 * tokens["number"]
    for row in found["rows"]:
        draws = np.array(row["draws"])
        assert draws.shape == (3, len(found["classes"]))
        assert (draws >= 0).all() and (draws <= 100).all()
        assert row["median"] == pytest.approx(np.median(draws, axis=0), abs=0.01)
    assert "SLIC, as many as tiny" in capsys.readouterr().out
    again = tmp_path / "again.json"
    options = (*options[:-1], again)
    run(tool, monkeypatch, seg_run[0], "--model", "tiny", *seg_run, 16, *lists, *options)
    assert json.loads(again.read_text())["rows"] == found["rows"]


def test_regions_by_codes_of_slots(tool, seg_run, tiny, scenes, lists, tmp_path, monkeypatch):
    report, config = tmp_path / "few.json", tmp_path / "slots.py"
    slots = tiny.write_slots_config(config, scenes, "morph"), tmp_path / "slots.pth"
    tiny.write_checkpoint(*slots)
    options = ("--per-class", 1, "--draws", 2, "--num-tokens", 4, "--json", report)
    command = (seg_run[0], "--model", "tiny", *seg_run, 16, "--slots", "auto", *slots, *lists)
    run(tool, monkeypatch, *command, *options)
    rows = json.loads(report.read_text())["rows"]
    names = [row["features"] for row in rows]
    assert names == ["tokens", "seeds", "codes (auto)", "bands", "pixels", "bands"]
    assert rows[2]["draws"] != rows[0]["draws"]
    with pytest.raises(ConfigError, match="has no slots"):
        command = (seg_run[0], "--model", "tiny", *seg_run, 16, "--slots", "a", *seg_run, *lists)
        run(tool, monkeypatch, *command, *options)
    # A cell has the vector of its slot, and cells without data have none.
    vectors = tool.SlotVectors("auto", slots, "cpu")
    image, valid = np.random.default_rng(0).random((2, 16, 24), np.float32), np.ones((16, 24), bool)
    valid[:4] = False
    found, cells = vectors(image, valid)
    assert found.shape == (4 * 6, 8) and cells.shape == (16, 24)
    assert not found[cells[:4]].any() and found[cells[4:]].any(axis=-1).all()
    assert len(np.unique(found, axis=0)) <= 5 and (np.unique(cells[4:8, 20:]) == [11]).all()


def test_parts_of_the_config(tool, seg_run, lists, tmp_path, monkeypatch):
    """``train`` and ``test`` are the splits of the config's data."""
    config, reports = tmp_path / "parts.py", [tmp_path / "parts.json", tmp_path / "lists.json"]
    parts = 'train_dataloader = dict(dataset=dict(split=["first"]))\n'
    parts += 'test_dataloader["dataset"]["split"] = ["second"]\n'
    config.write_text(seg_run[0].read_text() + parts)
    named = "--labels-from", "train", "--measured-on", "test"
    options = ("--per-class", 1, "--draws", 2, "--num-tokens", 4, "--json")
    model = ("--model", "tiny", *seg_run, 16)
    for given, report in zip((named, lists), reports, strict=True):
        run(tool, monkeypatch, config, *model, *given, *options, report)
    found, wanted = (json.loads(report.read_text())["rows"] for report in reports)
    assert found == wanted


def test_iou_is_that_of_the_pixels(tool):
    """Regions that separate the classes have 100 % for every draw."""
    pool = tool.Pool()
    truth = np.kron([[0, 1], [1, 0]], np.ones((8, 8), int))
    regions = np.kron([[0, 1], [2, 3]], np.ones((8, 8), int))
    image = np.stack([truth * 50.0, 10 + truth * 3.0])
    for train in (True, True, False):
        pool.add(regions, image, truth, 2, train, {})
    options = {"per_class": 2, "draws": 4, "seed": 0, "method": "linear", "strength": 1.0}
    args = tool.argparse.Namespace(labels_from="train", **options)
    found = tool.measure(pool, "bands", ["a", "b"], args)
    assert found["labels"] == [4, 4] and (found["iou"] == 100).all()
    assert (tool.measure(pool, "pixels", ["a", "b"], args)["iou"] == 100).all()
    values, truth = pool.tested[0]
    pool.tested = [(values, np.where(np.arange(len(truth)) < len(truth) // 2, truth, 1 - truth))]
    found = tool.measure(pool, "pixels", ["a", "b"], args)["iou"]
    assert np.allclose(found.mean(axis=1), 100 / 3, atol=2)  # half of the pixels are wrong
    # A quarter of the test pixels has the other class: 3 of 4 are correct.
    pool.pixels[8] = pool.pixels[8][::-1]
    found = tool.measure(pool, "bands", ["a", "b"], args)
    assert np.allclose(found["iou"], [[50, 100 * 2 / 3]] * 4)


def test_published_model(tool, seg_run, lists, tmp_path, monkeypatch):
    load, asked, report = tool.load_model, [], tmp_path / "report.json"
    monkeypatch.setattr(
        tool,
        "load_model",
        lambda model, device: asked.append(model) or load(seg_run, device=device),
    )
    options = (*lists, "--draws", 1, "--per-class", 1, "--num-tokens", 4, "--json", report)
    model = ("small", "hook-objects-small_rgb", "-", 16)
    run(tool, monkeypatch, seg_run[0], "--model", *model, *options)
    assert asked == ["hook-objects-small_rgb"]
    rows = json.loads(report.read_text())["rows"]
    assert rows[0]["regions"] == "HOOK (small)" and len(rows) == 5


def test_what_cannot_be_measured(tool, seg_run, lists, monkeypatch):
    model = ("--model", "tiny", *seg_run)
    with pytest.raises(ConfigError, match="window"):
        run(tool, monkeypatch, seg_run[0], *model, "wide", *lists)
    with pytest.raises(ConfigError, match="1 or more"):
        run(tool, monkeypatch, seg_run[0], *model, 16, *lists, "--draws", 0)
    with pytest.raises(DataError, match="too few regions of class"):
        run(tool, monkeypatch, seg_run[0], *model, 16, *lists, "--per-class", 1000)


def test_clicks(tool, seg_run, lists, tmp_path, monkeypatch, capsys):
    report, picture = tmp_path / "clicks.json", tmp_path / "clicks.png"
    options = ("--draws", 2, "--num-tokens", 4, "--clicks", 6, "--json", report, "--out", picture)
    run(tool, monkeypatch, seg_run[0], "--model", "tiny", *seg_run, 16, *lists, *options)
    found = json.loads(report.read_text())
    assert len(found["rows"]) == 8  # four kinds of features, two orders
    count = len(found["classes"])
    for row in found["rows"]:
        assert row["labels"] == list(range(count, 7))
        assert np.array(row["draws"]).shape == (2, 7 - count, count)
    assert picture.stat().st_size > 10_000
    assert "uncertain" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--clicks"):
        run(tool, monkeypatch, seg_run[0], "--model", "t", *seg_run, 16, *lists, "--clicks", 1)


def test_the_least_certain_region_is_clicked_next(tool):
    """Two far classes and one region between them that has most pixels of the test."""
    pool = tool.Pool()
    values = [0.0, 1, 2, 98, 99, 100, 70]
    truth = [0, 0, 0, 1, 1, 1, 0]
    for train in (True, False):
        for value, label in zip(values, truth, strict=True):
            image = np.full((1, 2, 2), value) + [[[0, 0.1], [0, 0.1]]]
            pool.add(np.zeros((2, 2), int), image, np.full((2, 2), label), 2, train)
    args = tool.argparse.Namespace(
        labels_from="train", draws=8, seed=0, method="linear", strength=1 / 3, clicks=3
    )
    found = tool.click(pool, "bands", "uncertain", ["a", "b"], args)
    assert found.shape == (8, 2, 2)
    # The region between is labelled third in every draw, or was drawn first.
    assert (found[:, 1].mean(axis=1) == 100).all() and (found[:, 0].mean(axis=1) < 100).any()
    random = tool.click(pool, "bands", "random", ["a", "b"], args)
    assert (random[:, 1].mean(axis=1) < 100).any()
    # All regions are labelled before the last click.
    args.clicks = 9
    assert tool.click(pool, "bands", "random", ["a", "b"], args).shape == (8, 8, 2)


def test_regions_of_the_same_class_are_found(tool, seg_run, lists, tmp_path, monkeypatch, capsys):
    pool = tool.Pool()
    kinds = np.arange(40) % 2
    angles = kinds * np.pi / 2 + np.random.default_rng(0).normal(0, 0.1, 40)
    pool.embeddings = {"tokens": list(np.stack([np.cos(angles), np.sin(angles)], 1))}
    pool.bands, pool.train = [np.zeros(2)] * 40, [False] * 40
    pool.pixels = list(np.eye(2, dtype=int)[kinds] * 9)
    args = tool.argparse.Namespace(search=5, seed=0)
    found = tool.search(pool, "tokens", False, ["a", "b"], args)
    assert found["precision"] == [100, 100] and found["chance"] == [50, 50]
    assert found["similarity"][0] < 0.3 and found["similarity"][2] > 0.9
    report = tmp_path / "search.json"
    options = ("--num-tokens", 4, "--search", 3, "--json", report)
    run(tool, monkeypatch, seg_run[0], "--model", "tiny", *seg_run, 16, *lists, *options)
    rows = json.loads(report.read_text())["rows"]
    assert [(row["features"], row["whitened"]) for row in rows] == [
        ("tokens", True), ("tokens", False), ("seeds", True), ("seeds", False)
    ]  # fmt: skip
    assert "of the 3 most similar" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--search"):
        run(tool, monkeypatch, seg_run[0], "--model", "t", *seg_run, 16, *lists, "--search", 0)
    with pytest.raises(ConfigError, match="--slots"):
        run(tool, monkeypatch, seg_run[0], "--model", "t", *seg_run, 16, *lists, "--search", 3,
            "--slots", "s", *seg_run)  # fmt: skip
