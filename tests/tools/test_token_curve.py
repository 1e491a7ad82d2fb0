"""token_curve: accuracy against tokens, sides and tokens chosen per image."""

import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hook.apis import load_model
from hook.engine.runner import HookRunner


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("analysis_tools/token_curve.py")


@pytest.fixture
def run(tool, monkeypatch):
    """Run the command in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["token_curve.py", *map(str, arguments)])
        tool.main()

    return run


@pytest.fixture
def runs(cls_run, tmp_path):
    """The config and its checkpoints of two seeds."""
    config, checkpoint = cls_run
    state = torch.load(checkpoint, weights_only=True)
    weight = state["state_dict"]["head.fc.weight"]
    weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    torch.save(state, tmp_path / "other.pth")
    return config, checkpoint, tmp_path / "other.pth"


def accuracy_by_hand(config, checkpoint, num_tokens=None, side=None):
    """Accuracy on the test images in percent, image by image."""
    model = load_model((config, checkpoint))
    if num_tokens is not None:
        model.backbone.tokenizer.num_tokens = num_tokens
    right = []
    for batch in HookRunner.build_dataloader(model.cfg.test_dataloader):
        for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
            inputs = model.data_preprocessor({"inputs": [image]}, False)["inputs"]
            if side is not None:
                inputs = F.interpolate(inputs, (side, side), mode="bilinear", antialias=True)
            with torch.no_grad():
                right.append(int(model(inputs).argmax()) == int(sample.gt_label))
    return 100 * np.mean(right)


def test_every_checkpoint_at_every_number_of_tokens(run, runs, tmp_path, capsys):
    report, picture = tmp_path / "curve.json", tmp_path / "curve.png"
    run(*runs, "--num-tokens", 1, 3, "--json", report, "--out", picture, "--threads", 1)
    found = json.loads(report.read_text())
    assert (found["varied"], found["label"]) == ("num_tokens", runs[0].stem)
    for point, tokens in zip(found["points"], (1, 3), strict=True):
        assert point["value"] == point["tokens"] == tokens
        assert point["ms_per_image"] > 0
        by_hand = [accuracy_by_hand(runs[0], c, num_tokens=tokens) for c in runs[1:]]
        assert point["accuracy"] == pytest.approx(by_hand)
    assert str(tmp_path) not in report.read_text()
    means = [f"{np.mean(point['accuracy']):.2f}" for point in found["points"]]
    text = capsys.readouterr().out
    assert all(mean in text for mean in means)
    # A different report with fixed tokens is added to the plot.
    beside = tmp_path / "beside.png"
    run(*runs[:2], "--num-tokens", 2, "--beside", report, "--out", beside)
    with Image.open(picture) as one, Image.open(beside) as two:
        assert one.size == two.size and one.size[0] > 800
        assert np.abs(np.asarray(one, int) - np.asarray(two, int)).max() > 100


def test_sides_are_resampled(run, runs, tmp_path):
    report = tmp_path / "curve.json"
    run(*runs[:2], "--sides", 16, 24, "--json", report)
    points = json.loads(report.read_text())["points"]
    assert points[0]["accuracy"] == pytest.approx([accuracy_by_hand(*runs[:2])])
    assert points[1]["accuracy"] == pytest.approx([accuracy_by_hand(*runs[:2], side=24)])


def test_tokens_chosen_per_image(run, runs, tmp_path):
    report = tmp_path / "curve.json"
    run(*runs[:2], "--explained", 0.01, 1.0, "--json", report)
    few, all_of_them = json.loads(report.read_text())["points"]
    assert 1 <= few["tokens"] <= all_of_them["tokens"] == 3
    assert all_of_them["accuracy"] == pytest.approx([accuracy_by_hand(*runs[:2])])


def test_what_cannot_be_measured(run, runs, seg_run, tmp_path, capsys):
    config, checkpoint, _ = runs
    other = tmp_path / "sides.json"
    other.write_text(json.dumps({"varied": "sides", "points": [], "label": "x"}))
    for arguments, text in (
        ((config, checkpoint, "--num-tokens", 9), "no queries for that many tokens"),
        ((config, checkpoint, "--sides", 2), "4 pixels or more"),
        ((config, checkpoint, "--explained", 1.5), "shares above 0"),
        ((*seg_run, "--num-tokens", 2), "not a scene classification"),
        ((config, checkpoint, "--num-tokens", 2, "--beside", other), "varies sides"),
        ((config, checkpoint, "--num-tokens", 2, "--beside", config), "not a report of this tool"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(*arguments, "--json", tmp_path / "x.json")
        assert stop.value.code == 1
        assert text in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
