"""get_flops, benchmark, confusion_matrix and analyze_logs."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hook.engine.profiling import Measurement
from hook.errors import DataError


def _main(module, monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", *map(str, arguments)])
    module.main()


# ---------------------------------------------------------------------------------- get_flops
class _Known(torch.nn.Module):
    """A model with known numbers of products."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)])

    def forward(self, x, mode="tensor"):
        x = self.conv(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        heads = x.unflatten(2, (2, 4)).transpose(1, 2)
        return torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)


def test_flops_against_paper_and_pencil(load_tool):
    totals, attention = load_tool("analysis_tools/get_flops.py").count(
        _Known(), torch.zeros(1, 3, 10, 10)
    )
    assert totals["conv"] == 100 * 8 * 3 * 9
    assert totals["layers.0"] == totals["layers.1"] == 100 * 8 * 16
    assert totals["layers"] == 2 * 100 * 8 * 16  # a ModuleList is not called itself
    assert attention == 2 * 2 * 100 * 100 * 4  # two products of two heads of width 4
    assert totals[""] == totals["conv"] + totals["layers"] + attention


def test_flops_of_the_papers_baseline(load_tool, repo, monkeypatch, capsys):
    tool = load_tool("analysis_tools/get_flops.py")
    config = repo / "configs/_base_/models/patch_embed_vit-b_cls.py"
    _main(tool, monkeypatch, config, "--depth", "1")
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("multiply-accumulates"))
    total, attention = float(line.split()[1]), float(line.split()[3])
    assert total - attention == pytest.approx(16.9, abs=0.1)  # the paper omits attention
    assert "parameters: 85.680 M" in text  # 85.7 M in the paper


def test_flops_of_images_the_model_cannot_take(load_tool, cls_run, monkeypatch, capsys):
    tool = load_tool("analysis_tools/get_flops.py")
    with pytest.raises(SystemExit) as caught:
        _main(tool, monkeypatch, cls_run[0], "--bands", "5")
    assert caught.value.code == 1
    assert "5 bands" in capsys.readouterr().err


# ---------------------------------------------------------------------------------- benchmark
def test_benchmark_compares_two_configs(tools, tiny, tmp_path):
    for name, depth in (("shallow", 1), ("deep", 6)):
        tiny.write_cls_config(tmp_path / f"{name}_base.py")
        (tmp_path / f"{name}.py").write_text(
            f'_base_ = ["{name}_base.py"]\nmodel = dict(backbone=dict(depth={depth}))\n'
        )
    report = tmp_path / "report.json"
    arguments = ["--mode", "train", "--repeats", "3", "--threads", "1", "--channels-last"]
    done = tools.run(
        "tools/analysis_tools/benchmark.py",
        tmp_path / "shallow.py",
        tmp_path / "deep.py",
        *arguments,
        f"--json={report}",
    )
    assert "times as fast as B" in done.stdout
    content = json.loads(report.read_text())
    low, high = content["speed_a_over_b"]["quartiles"]
    assert low <= content["speed_a_over_b"]["median"] <= high
    shallow, deep = content["configs"]
    for entry in (shallow, deep):
        assert entry["images_per_second"] == pytest.approx(1 / entry["seconds"])
        assert entry["peak_memory_bytes"] > 0
    assert deep["saved_for_backward_bytes"] > shallow["saved_for_backward_bytes"]
    assert deep["saved_for_backward_over_baseline"] == 1
    assert content["precision"] == "float32"
    assert content["memory_format"] == "channels last"
    assert not content["compiled"]
    assert content["machine"]["torch"] == torch.__version__
    # Published reports must not contain local paths.
    for text in (done.stdout, report.read_text()):
        assert str(tmp_path) not in text
        assert "report.json" in text


def test_benchmark_of_several_configs(load_tool, cls_run, monkeypatch, tmp_path, capsys):
    tool = load_tool("analysis_tools/benchmark.py")
    memory = iter([100, 50, 200])  # replaces slow measurements in fresh processes
    monkeypatch.setattr(tool, "measure", lambda *_: Measurement((1,), (), next(memory)))
    report = tmp_path / "new" / "report.json"
    config = cls_run[0]
    other = config.with_name("other.py")
    other.write_text(config.read_text())
    arguments = ["--repeats", "4", "--warmup", "1", "--mode", "train", "--amp", "--json", report]
    _main(tool, monkeypatch, config, other, config, "--baseline", other, *arguments)
    text = capsys.readouterr().out
    assert "A is " in text and "C is " in text and "times as fast as B" in text
    assert "bfloat16" in text
    content = json.loads(report.read_text())
    assert content["baseline"] == "B"
    assert "speed_a_over_b" not in content
    entries = content["configs"]
    assert [e["peak_memory_over_baseline"] for e in entries] == [2, 1, 4]
    seconds = np.array([e["seconds_per_round"] for e in entries])
    assert seconds.shape == (3, 4)
    for entry, row in zip(entries, seconds, strict=True):
        assert entry["seconds"] == pytest.approx(np.median(row))
        assert entry["speed_over_baseline"]["median"] == pytest.approx(np.median(seconds[1] / row))


def test_benchmark_of_variants_of_the_first_config(
    load_tool, cls_run, monkeypatch, tmp_path, capsys
):
    tool = load_tool("analysis_tools/benchmark.py")
    monkeypatch.delattr(tool, "measure")  # not needed without the peak memory
    report, config = tmp_path / "report.json", cls_run[0]
    variants = ["--variant", "model.backbone.depth=2", "--variant", "model.backbone.depth=4"]
    arguments = ["--repeats", "1", "--warmup", "1", "--no-peak", "--json", report]
    _main(tool, monkeypatch, config, config, *variants, *arguments)
    text = capsys.readouterr().out
    assert "B: " in text and "model.backbone.depth=4, input" in text and "as fast as D" in text
    assert "peak memory" not in text
    entries = json.loads(report.read_text())["configs"]
    assert [one.get("options") for one in entries] == [
        None, {"model.backbone.depth": 2}, {"model.backbone.depth": 4}, None
    ]  # fmt: skip
    sizes = [one["parameters"] for one in entries]
    assert sizes[0] == sizes[3] < sizes[1] < sizes[2]


def test_benchmark_of_images_of_different_sizes_claims_no_factor(
    load_tool, cls_run, monkeypatch, tmp_path, capsys
):
    tool = load_tool("analysis_tools/benchmark.py")
    monkeypatch.setattr(tool, "measure", lambda *_: Measurement((1,), (), 1))
    config, other = cls_run[0], cls_run[0].with_name("larger.py")
    other.write_text(config.read_text().replace("img_size=16", "img_size=32"))
    report = tmp_path / "report.json"
    with pytest.warns(UserWarning, match="sizes of the images differ"):
        _main(tool, monkeypatch, config, other, "--repeats", "1", "--json", report)
    text = capsys.readouterr().out
    assert "16 x 16" in text and "32 x 32" in text and "times as fast" not in text
    assert "over" not in report.read_text()


def test_ratios_are_taken_per_round(load_tool):
    tool = load_tool("analysis_tools/benchmark.py")
    # The machine slows down, the first config always takes half the time of the second.
    second = np.array([1.0, 2, 4, 8, 16])
    first, baseline = tool.ratios_to_baseline(np.stack([second / 2, second], axis=1), 1)
    assert first == {"median": 2, "quartiles": [2, 2]}
    assert baseline == {"median": 1, "quartiles": [1, 1]}
    seconds = np.array([[1.0, 2], [1, 3], [1, 4], [1, 5], [1, 60]])
    assert tool.ratios_to_baseline(seconds, 1)[0] == {"median": 4, "quartiles": [3, 5]}


def test_rounds_rotate(load_tool):
    order = load_tool("analysis_tools/benchmark.py").order_of_round
    assert [order(number, 2) for number in range(3)] == [[0, 1], [1, 0], [0, 1]]
    rounds = np.array([order(number, 4) for number in range(8)])
    assert all(sorted(row) == [0, 1, 2, 3] for row in rounds.tolist())
    # Every config is at every position equally often, and follows more than one other config.
    assert all(np.bincount(column).tolist() == [2] * 4 for column in rounds.T)
    pairs = {tuple(pair) for row in rounds.tolist() for pair in zip(row, row[1:], strict=False)}
    assert {(0, 1), (1, 0)} <= pairs


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.py"], 1, "missing.py does not exist"),
        (["{config}", "--shape", "2"], 1, "the model does not support these images"),
        (["{config}", "--shape", "8", "8", "8"], 2, "--shape"),
        (["{config}", "--baseline", "missing.py"], 2, "not among the configs"),
        (["{config}", "--repeats", "0"], 2, "--repeats must be at least 1"),
        (["{config}", "--device", "cuda:99"], 1, "--device cuda:99 cannot be used"),
        (["{config}", "--json", "{folder}"], 1, "is a folder"),
        (["{config}", "--compile"], 1, "needs a C++ compiler"),
    ],
)
def test_benchmark_refuses(load_tool, cls_run, monkeypatch, capsys, arguments, code, message):
    tool = load_tool("analysis_tools/benchmark.py")
    monkeypatch.setenv("CXX", "no-such-compiler")
    given = [text.format(config=cls_run[0], folder=cls_run[0].parent) for text in arguments]
    with pytest.raises(SystemExit) as caught:
        _main(tool, monkeypatch, *given)
    assert caught.value.code == code
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------- pictures
def test_confusion_matrix_picture(load_tool, tested, tmp_path, monkeypatch, capsys):
    tool = load_tool("analysis_tools/confusion_matrix.py")
    counts = np.array([[6, 2], [0, 0]])
    assert tool.normalize(counts, "true")[0].tolist() == [0.75, 0.25]
    assert np.isnan(tool.normalize(counts, "true")[1]).all()
    assert tool.normalize(counts, "pred")[:, 0].tolist() == [1, 0]
    for mode in ("true", "pred", "none"):
        target = tmp_path / f"{mode}.png"
        _main(tool, monkeypatch, tested, target, "--normalize", mode, "--title", "a test")
        assert min(Image.open(target).size) > 300
    with pytest.raises(SystemExit) as caught:
        _main(tool, monkeypatch, tmp_path, tmp_path / "x.png")
    assert caught.value.code == 1
    assert "confusion_matrix.json" in capsys.readouterr().err


def test_curves(load_tool, trained, tmp_path, monkeypatch, capsys):
    tool = load_tool("analysis_tools/analyze_logs.py")
    _, work_dir = trained
    records = tool.read_log(work_dir)
    steps, losses = tool.curve_of(records, "loss")
    assert steps == list(range(1, 17))
    assert len(losses) == 16
    assert tool.curve_of(records, "accuracy/top1")[0] == [1, 2, 3, 4]
    # The last value of a step counts.
    assert tool.curve_of([{"step": 1, "x": 5}, {"step": 1, "x": 6}], "x") == ([1], [6])
    target = tmp_path / "curves.png"
    _main(tool, monkeypatch, work_dir, work_dir, "--out", target)
    assert Image.open(target).size[0] > 1000  # two panels: loss and accuracy
    (tmp_path / "scalars.json").write_text("no json")
    with pytest.raises(DataError, match="line 1"):
        tool.read_log(tmp_path / "scalars.json")
    with pytest.raises(DataError, match="has no log"):
        tool.read_log(tmp_path)
    with pytest.raises(SystemExit):
        _main(tool, monkeypatch, work_dir, "--out", target, "--keys", "los")
    assert "accuracy/top1" in capsys.readouterr().err
