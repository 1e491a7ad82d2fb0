"""token_quality: its table, report and pictures on a tiny model, intervals against scipy."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import bootstrap

from hook.engine.configs import load_config
from hook.engine.runner import build_runner
from hook.evaluation.homogeneity import MEASURES
from hook.structures import ClsDataSample


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("analysis_tools/token_quality.py")


@pytest.fixture(scope="module")
def patch_run(tiny, scenes, tmp_path_factory):
    """Config and checkpoint of a tiny segmentation with patch embedding."""
    folder = tmp_path_factory.mktemp("patches")
    extra = (
        'model["backbone"]["tokenizer"] = dict(\n'
        '    type="hook.PatchEmbedTokenizer", img_size=32, patch_size=8, in_channels=2\n)\n'
        'model["backbone"]["dense_size"] = None'
    )
    config = tiny.write_seg_config(folder / "patches.py", scenes, extra)
    return config, tiny.write_checkpoint(config, folder / "patches.pth")


def _main(tool, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tool", *map(str, arguments)])
    tool.main()


def test_report_table_and_pictures(tool, seg_run, patch_run, tmp_path, monkeypatch, capsys):
    out, show = tmp_path / "quality.json", tmp_path / "show"
    _main(
        tool, monkeypatch, *seg_run, "--num-tokens", 2, 4, "--untrained",
        "--patch-config", patch_run[0], "--patch-checkpoint", patch_run[1],
        "--max-images", 5, "--json", out, "--show-dir", show, "--tolerance", 2, "--seed", 1,
    )  # fmt: skip
    report = json.loads(out.read_text())
    assert (report["images"], report["files"], report["tolerance"]) == (5, 3, 2)
    assert str(tmp_path) not in out.read_text()
    tokens = ["HOOK tokens (trained on the task)", "HOOK tokens (untrained)"]
    patches = [
        f"patches merged, {which} ({state})"
        for state in ("trained on the task", "untrained")
        for which in ("embedding", "after a ViT")
    ]
    like = f"SLIC, as many as {tokens[1]}"
    both = ["regular grid", *patches, like]
    expected = {
        "labels": [*tokens, "k-means on colour and position", "SLIC", *both, f"k-means{like[4:]}"],
        "components": [*tokens, "SLIC", "Felzenszwalb", *both],
    }
    assert [(c["num_tokens"], c["kind"]) for c in report["comparisons"]] == [
        (2, "labels"), (2, "components"), (4, "labels"), (4, "components"),
    ]  # fmt: skip
    for comparison in report["comparisons"]:
        rows = {row["name"]: row for row in comparison["rows"]}
        assert list(rows) == expected[comparison["kind"]]
        first = rows[tokens[0]]
        grid = rows["regular grid"]
        if comparison["kind"] == "labels":
            assert [i["labels"] for i in grid["images"]] == [i["labels"] for i in first["images"]]
            assert first["labels"] <= comparison["num_tokens"]
        else:
            assert first["labels"] == first["components"]
            # A cell may be in the corner without data.
            assert first["labels"] - 1 <= grid["labels"] <= first["labels"]
        assert rows[tokens[1]]["measures"] != first["measures"]
        assert rows[tokens[1]]["labels"] - 1 <= rows[like]["labels"] <= rows[tokens[1]]["labels"]
        for row in rows.values():
            assert list(row["measures"]) == list(MEASURES)
            of_images = [image["ASA"] for image in row["images"]]
            asa = row["measures"]["ASA"]
            assert asa["mean"] == pytest.approx(np.mean(of_images))
            assert asa["low"] <= asa["mean"] <= asa["high"]
            difference = row["first_minus_this"]["ASA"]["mean"]
            assert difference == pytest.approx(first["measures"]["ASA"]["mean"] - asa["mean"])
    text = capsys.readouterr().out
    assert "5 of 13 test images from 3 files" in text
    assert "2 tokens: equal number of labels" in text
    assert "4 tokens: equal number of components" in text
    pictures = sorted(path.name for path in show.iterdir())
    assert [name.partition("_")[0] for name in pictures] == ["best", "median", "worst"]
    for path in show.iterdir():
        with Image.open(path) as picture:
            assert len(picture.getcolors(1 << 24)) > 50 and min(picture.size) > 500


def test_untrained_alone(tool, seg_run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "quality.json"
    _main(tool, monkeypatch, seg_run[0], "--untrained", "--max-images", 2, "--json", out)
    names = [row["name"] for row in json.loads(out.read_text())["comparisons"][0]["rows"]]
    assert names[0] == "HOOK tokens (untrained)"
    first = capsys.readouterr().out
    _main(tool, monkeypatch, seg_run[0], "--untrained", "--max-images", 2)
    assert capsys.readouterr().out == first  # reproducible with the seed


def test_tokens_of_another_model_and_without_specks(
    tool, seg_run, cls_run, patch_run, tiny, scenes, tmp_path, monkeypatch
):
    other = tiny.write_seg_config(
        tmp_path / "other.py", scenes, 'model["backbone"]["tokenizer"]["num_tokens"] = 2'
    )
    weights = tiny.write_checkpoint(other, tmp_path / "other.pth")
    slots = tiny.write_slots_config(tmp_path / "slots.py", scenes, "gru")
    of_slots = slots, tiny.write_checkpoint(slots, tmp_path / "slots.pth")
    counts = {}
    for steps in (0, 30):
        out = tmp_path / f"{steps}.json"
        _main(
            tool, monkeypatch, *seg_run, "--num-tokens", 2, 4, "--max-images", 3, "--json", out,
            "--beside", "other", other, weights, "--diffusion-steps", steps,
            "--beside", "auto", *of_slots,
        )  # fmt: skip
        report = json.loads(out.read_text())
        assert report["diffusion_steps"] == steps
        names = [[row["name"] for row in c["rows"]] for c in report["comparisons"]]
        # The model has queries for two tokens only.
        assert ["HOOK tokens (other)" in row for row in names] == [True, True, False, False]
        assert ["slots (auto)" in row for row in names] == [False, False, True, True]
        assert "SLIC, as many as slots (auto)" in names[2] and "SLIC, as many" in str(names[3])
        assert "k-means, as many as slots (auto)" in names[2] and "as many as HOOK" in str(names[0])
        counts[steps] = [c["rows"][0]["components"] for c in report["comparisons"][1::2]]
    assert all(few < many for few, many in zip(counts[30], counts[0], strict=True))
    with pytest.raises(SystemExit):
        _main(tool, monkeypatch, *seg_run, "--beside", "patches", *patch_run)
    with pytest.raises(SystemExit):
        _main(tool, monkeypatch, *seg_run, "--diffusion-steps", -1)


def test_slots_keep_their_number_without_specks(tool, tiny, scenes, tmp_path):
    config = tiny.write_slots_config(tmp_path / "slots.py", scenes, "gru")
    model = tool.load_model((config, tiny.write_checkpoint(config, tmp_path / "slots.pth")))
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 4, (8, 8), generator=draws)
    model.predict = lambda *_: [SimpleNamespace(token_ids=ids)]
    inputs, valid = torch.rand(2, 32, 32, generator=draws), np.ones((32, 32), bool)
    rgb = np.zeros((32, 32, 3), np.uint8)
    chip = tool.Chip("chip", "a.tif", inputs, tool.BaseDataElement(), valid * 1, valid, rgb)
    plain = tool.SlotSegmenter("slots", model).regions(chip, None)
    assert np.array_equal(plain, ids.numpy().repeat(4, 0).repeat(4, 1))
    merged = tool.SlotSegmenter("slots", model, 64).regions(chip, None)
    assert {*np.unique(merged)} <= {0, 1, 2, 3}
    parts = tool.connected_components(merged)
    assert np.bincount(parts.ravel()).min() >= 64 and parts.max() < 63


def test_pictures_show_which_boundaries_are_met(tool, seg_run, tmp_path, monkeypatch):
    truth = np.zeros((32, 32), np.uint8)
    truth[:, 8:16] = 1
    chip = tool.Chip(
        "chip", "a.tif", None, None, truth, truth < 255, np.full((32, 32, 3), 128, np.uint8)
    )
    regions = (np.arange(32)[None].repeat(32, 0) >= 9) + 1 * (np.arange(32) >= 24)
    seen = {}
    monkeypatch.setattr(tool, "draw_overview", lambda path, panels, *_, **__: seen.update(p=panels))
    meta = {"classes": ("background", "building"), "palette": None}
    tool.draw_chip(tmp_path / "a.png", chip, regions, "tokens", "best", meta, 1)
    factor = seen["p"][3].picture.shape[0] // 32
    row = seen["p"][3].picture[factor // 2, factor // 2 :: factor]

    def columns(colour):
        return np.flatnonzero((row == colour).all(-1)).tolist()

    assert columns(tool.MET) == [7, 8]  # the tokens' is at 8 and 9
    assert columns(tool.MISSED) == [15, 16]
    assert columns(tool.SPURIOUS) == [23, 24]


# ---------------------------------------------------------------------------------- intervals
def test_intervals_are_those_of_scipy(tool):
    values = np.random.default_rng(0).normal(10, 2, 40)
    files = [f"{index}.tif" for index in range(40)]
    found = tool.bootstrap_mean([*values, math.nan], [*files, "0.tif"], seed=1)
    reference = bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.03)


def test_images_of_a_file_are_drawn_together(tool):
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 25)
    files = np.repeat(["a", "b", "c", "d"], 25)
    together = tool.bootstrap_mean(values, files, seed=0)
    apart = tool.bootstrap_mean(values, [str(index) for index in range(100)], seed=0)
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_no_interval_of_one_file_or_of_nothing(tool):
    one = tool.bootstrap_mean([1.0, 2.0], ["a", "a"], seed=0)
    assert one.mean == 1.5 and math.isnan(one.low) and one.as_dict()["high"] is None
    assert math.isnan(tool.bootstrap_mean([math.nan], ["a"], seed=0).mean)


# ---------------------------------------------------------------------------------- options
def test_options_that_cannot_be_used(tool, seg_run, patch_run, cls_run, monkeypatch, capsys):
    config, checkpoint = seg_run
    for arguments, message in (
        ([config], "no checkpoint given"),
        ([config, checkpoint, "--patch-config", patch_run[0]], "without --patch-checkpoint"),
        ([config, checkpoint, "--patch-checkpoint", patch_run[1]], "without --patch-config"),
        ([config, checkpoint, "--max-images", 0], "--max-images"),
        ([config, checkpoint, "--tolerance", -1], "--tolerance"),
        ([config, checkpoint, "--num-tokens", 9], "no queries for that many tokens"),
        ([*cls_run, "--num-tokens", 2], "--num-tokens has no meaning for a classifier"),
        (
            [config, checkpoint, "--patch-config", config, "--patch-checkpoint", checkpoint],
            "is not a patch embedding",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            _main(tool, monkeypatch, *arguments)
        assert ended.value.code == 1
        assert message in capsys.readouterr().err


def test_images_without_masks(tool, seg_run, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        _main(tool, monkeypatch, *seg_run, "--cfg-options", "test_dataloader.dataset.masks=None")
    assert "no mask on the grid of the image" in capsys.readouterr().err


def test_the_metric_in_two_processes_counts_each_image_once(tools, tiny, scenes, tmp_path):
    extra = 'test_evaluator.append(dict(type="hook.HomogeneityMetric"))'
    config = tiny.write_seg_config(tmp_path / "seg.py", scenes, extra)
    checkpoint = tiny.write_checkpoint(config, tmp_path / "seg.pth")
    tools.run_pair(
        "tools/dist_test.sh",
        config,
        checkpoint,
        2,
        "--work-dir",
        tmp_path / "run",
        "--out",
        tmp_path,
    )
    found = json.loads((tmp_path / "metrics.json").read_text())
    cfg = load_config(config)
    cfg.load_from, cfg.work_dir = str(checkpoint), str(tmp_path / "run")
    assert found == pytest.approx(build_runner(cfg).test())
    assert {"mIoU", "TokenASA", "TokenObjectShare", "TokenShare"} <= set(found)


def test_tokens_of_a_classifier(tool, cls_run, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(24, 3, 16, 16)).astype(np.float32)
    images[1::2] += 3

    class Data(list):
        metainfo: dict = {}

    def build(cfg, split, change):
        changed = change({"pipeline": "augmented"})
        assert changed["test_mode"] and changed["pipeline"] == [{"type": "hook.PackClsSample"}]
        return Data(
            dict(inputs=torch.from_numpy(one), data_samples=ClsDataSample(gt_label=i % 2))
            for i, one in enumerate(images)
        )

    monkeypatch.setattr(tool, "build_dataset", build)
    out = tmp_path / "tokens.json"
    _main(tool, monkeypatch, *cls_run, "--max-images", 20, "--json", out)
    assert "cosine of weights" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert (report["train"], report["test"]) == (20, 20)
    assert 0 < report["cosine of weights"] <= 1
    assert 0 < report["common variance, before the ViT"] <= 100
    assert report["probe of the mean of the seeds"] > 90  # fitted to the same images
    with pytest.raises(SystemExit):
        _main(tool, monkeypatch, *cls_run, "--untrained")
    assert "--untrained has no meaning for a classifier" in capsys.readouterr().err
    low, high = report["probe of one token, after the ViT"]
    assert 50 <= low <= high <= 100
