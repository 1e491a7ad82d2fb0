"""rare_classes: which tiles are labelled, and tiny runs of all parts on random tiles."""

import csv
import json

import numpy as np
import pytest
import torch

from hook.engine.configs import find_config, load_config, setup_environment
from hook.engine.models import build_model
from hook.engine.runner import _emulates_bfloat16

STEPS = ("--codec-steps", "2", "--generator-steps", "2", "--steps", "2", "--generated", "2")
if not _emulates_bfloat16():  # it would take minutes
    STEPS += ("--amp",)
NETWORK = ("embed_dims=16", "depth=1", "num_heads=2")
OPTIONS = ("--shots", "1", *STEPS, "--cfg-options", *(f"model.network.{one}" for one in NETWORK))


@pytest.fixture(scope="module")
def tool(load_tool):
    setup_environment()
    return load_tool("analysis_tools/rare_classes.py")


@pytest.fixture
def data(eurosat_tiles):
    return eurosat_tiles


def test_fewer_labels_are_a_part_of_more(tool):
    labels = torch.arange(60) % 3
    few, more, other = (tool.choose(labels, *one).tolist() for one in ((2, 0), (5, 0), (5, 1)))
    assert sorted(labels[few].tolist()) == [0, 0, 1, 1, 2, 2] and len({*more}) == 15
    assert {*few} < {*more} != {*other}
    with pytest.raises(tool.ConfigError, match="too few training tiles"):
        tool.choose(labels, 21, 0)


def test_stronger_augmentation_keeps_the_kind_of_images(tool):
    images = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8)
    for strong in (False, True):
        torch.manual_seed(0)
        found = tool.augment(images, torch.Generator().manual_seed(0), strong)
        assert found.shape == images.shape and 0 <= found.min() and found.max() <= 255
    # the others only move pixels
    plain = tool.augment(images, torch.Generator().manual_seed(0), False)
    assert {*plain.unique().tolist()} <= {*images.unique().tolist()}


def test_all_parts_are_run_once_and_compared(tool, data, tmp_path, capsys):
    run = ("labelled", "--data", str(data), "--out", str(tmp_path), *OPTIONS)
    assert tool.main(list(run)) == 0
    folder = tmp_path / "labelled-1_seed0"
    names = (folder / "tiles" / "tiles.txt").read_text().split()
    assert len(names) == 10 and len({name.split("/")[0] for name in names}) == 10
    tiles = np.load(folder / "tiles" / "tiles.npy")
    assert tiles.shape == (20, 3, 64, 64) and tiles.dtype == np.uint8
    assert json.loads((folder / "tiles" / "log.json").read_text())["seen"] == 10
    results = {arm: json.loads((folder / arm / "result.json").read_text()) for arm in tool.ARMS}
    for result in results.values():
        assert len(result["predicted"]) == 20 and 0 <= result["accuracy"] <= 100
        assert result["accuracy"] == pytest.approx(100 * np.mean(result["by_class"]), abs=1e-3)
    table = (tmp_path / "table.md").read_text()
    step = results["both"]["accuracy"] - results["real"]["accuracy"]
    assert f"| {step:+.2f} |" in next(row for row in table.splitlines() if "| both |" in row)
    with (tmp_path / "table.csv").open() as file:
        assert [row["part"] for row in csv.DictReader(file)] == sorted(tool.ARMS)
    before = (folder / "real" / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    assert tool.main(list(run)) == 0
    assert (folder / "real" / "result.json").stat().st_mtime_ns == before


def test_what_is_not_there_yet_is_skipped(tool, data, tmp_path, capsys):
    model = build_model(load_config(find_config(tool.CLASSIFIER)))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "pretrained.pth")
    run = ["unlabelled", "--data", str(data), "--out", str(tmp_path / "out"), *OPTIONS]
    run[1:1] = ["--codecs", str(tmp_path)]
    with pytest.raises(SystemExit):
        tool.main(run)
    assert "needs --pretrained" in capsys.readouterr().err
    assert tool.main([*run[:1], "--pretrained", str(tmp_path / "pretrained.pth"), *run[1:]]) == 0
    shown = capsys.readouterr().err
    assert "unlabelled-1_seed0/tiles is skipped: there is no trained codec vq_seed0" in shown
    assert "unlabelled-1_seed0/both is skipped: its tiles are not drawn yet" in shown
    parts = sorted(path.parent.name for path in tmp_path.glob("out/*/*/result.json"))
    assert parts == ["real", "stronger"]


def test_other_tiles_are_seen_without_their_class(tool, data, tmp_path, repo, monkeypatch):
    codec = tmp_path / "vq_seed0"
    codec.mkdir()
    cfg = load_config(find_config("vq-1k_s8_eurosat-2k-64"))
    cfg.train_dataloader.dataset.data_root = str(tmp_path / "others")
    cfg.dump(codec / "config.py")
    torch.save(dict(state_dict=build_model(cfg).state_dict()), codec / "iter_2.pth")
    (codec / "last_checkpoint").write_text("iter_2.pth")
    train, given = tool.Tiles(data, "train", None, "cpu"), {}

    def note(network, stored, labels, cfg, steps, pool, amp):
        given.update(labels=labels, pool=pool, stored=stored)
        yield 1, network, torch.zeros(())

    monkeypatch.setattr(tool, "optimize", note)
    args = ["unlabelled", "--codecs", str(tmp_path), "--data", str(data), *OPTIONS]
    args = tool.parse_args(args)
    job = tool.Job("unlabelled", 1, 0, "tiles")
    with pytest.raises(tool.ConfigError, match="has learned from other tiles"):
        tool.draw_tiles(job, tmp_path, train, args)
    cfg.train_dataloader.dataset.data_root = str(data)
    cfg.dump(codec / "config.py")
    tool.draw_tiles(job, tmp_path, train, args)
    chosen = tool.choose(train.labels, 1, 0)
    assert torch.equal(given["labels"][chosen], train.labels[chosen])
    assert (given["labels"] == 10).sum() == 20 and given["stored"].shape[1] == 30
    counts = torch.bincount(given["pool"])
    assert (counts[chosen] == 4).all() and counts.sum() == 60  # each other one once
