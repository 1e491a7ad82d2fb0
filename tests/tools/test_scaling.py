"""scaling: time and memory against the side of the image."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from hook.engine.profiling import Measurement, OutOfMemory, StepStopped
from hook.errors import ConfigError

GIB = 2**30


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("analysis_tools/scaling.py")


@pytest.fixture
def run(tool, monkeypatch):
    """Run the command in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["scaling.py", *map(str, arguments)])
        tool.main()

    return run


def _point(side, seconds, memory):
    return {"side": side, "seconds": seconds, "peak_memory_bytes": memory, "skipped": None}


def test_estimate(tool):
    assert tool.estimate([], [], 128) == 0
    assert tool.estimate([128], [1.0], 256) == pytest.approx(4)  # linear in the pixels
    assert tool.estimate([64, 128], [1.0, 8.0], 256) == pytest.approx(64)  # cubic, as measured
    assert tool.estimate([64, 128], [1.0, 1.1], 256) == pytest.approx(4.4)  # at least linear
    assert tool.estimate([64, 128], [1.0, 99.0], 256) == pytest.approx(99 * 16)  # at most quartic
    assert tool.estimate([64, 128], [0.0, 0.0], 256) == 0


def test_reasons_to_skip(tool):
    points = [_point(64, 1.0, GIB), _point(128, 4.0, 4 * GIB)]
    assert tool.reason_to_skip(points, 256, 20, 20 * GIB) is None
    assert tool.reason_to_skip(points, 256, 20, None) is None
    assert tool.reason_to_skip(points, 256, 15, 20 * GIB)["reason"] == "time"
    assert tool.reason_to_skip(points, 256, 20, 15 * GIB)["reason"] == "memory"
    # Exceeded limits apply to larger sides; a rejected size does not.
    stopped = {"side": 256, "skipped": {"reason": "memory", "detail": "a step takes more"}}
    again = tool.reason_to_skip([*points, stopped], 512, 1e9, None)
    assert again == {"reason": "memory", "detail": "as at 256 pixels"}
    refused = {"side": 256, "skipped": {"reason": "refused", "detail": "odd"}}
    assert tool.reason_to_skip([*points, refused], 512, 1e9, None) is None


def test_picture_table_and_report(tool, run, cls_run, tmp_path, monkeypatch, capsys):
    asked = []

    def measure(config, settings, *, side, repeats, max_seconds, max_memory):
        asked.append((config, side))
        assert max_memory == GIB
        if side == 20:
            raise ConfigError("the model does not support these images", found="20 x 20")
        if side == 64 and config.endswith("slow.py"):
            raise OutOfMemory("the process takes more than 1.00 GiB")
        seconds = side**2 * 1e-6 * (1 + config.endswith("slow.py"))
        return Measurement((2, 3, side, side), (seconds,) * repeats, side**2 * 100)

    monkeypatch.setattr(tool, "measure", measure)
    fast, slow = cls_run[0], cls_run[0].with_name("slow.py")
    slow.write_text(fast.read_text())
    out, report = tmp_path / "sub" / "scaling.png", tmp_path / "scaling.json"
    names = ["--labels", "fast one", "slow one", "--out", out, "--json", report]
    limits = ["--max-memory", "1", "--max-seconds", "0.02", "--repeats", "2", "--batch-size", "2"]
    run(fast, slow, *names, *limits, "--sides", 256, 16, 20, 32, 64, 128)
    assert asked == [(str(c), side) for side in (16, 20, 32, 64, 128) for c in (fast, slow)][:-1]
    text = capsys.readouterr().out
    assert "slow one at 64 pixels skipped: the process takes more than 1.00 GiB" in text
    assert "slow one at 128 pixels skipped: as at 64 pixels" in text
    assert "fast one at 256 pixels skipped: a step would take about 0.0655 s" in text
    assert str(tmp_path) not in text
    content = json.loads(report.read_text())
    assert content["mode"] == "forward" and content["batch_size"] == 2
    points = content["configs"][0]["points"]
    assert [p["side"] for p in points] == [16, 20, 32, 64, 128, 256]
    assert points[1]["skipped"]["reason"] == "refused"
    assert points[0]["ns_per_pixel"] == pytest.approx(500)  # 1 us per pixel, two images
    assert points[3]["ms_per_image"] == pytest.approx(64**2 * 1e-3 / 2)
    image = np.asarray(Image.open(out).convert("RGB"))
    assert image.shape[1] > 1200
    for colour in ((31, 119, 180), (255, 127, 14)):  # both curves are there
        assert (image == colour).all(-1).sum() > 200


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.py"], 1, "missing.py does not exist"),
        (["{config}", "--sides", "0"], 2, "--sides"),
        (["{config}", "--labels", "a", "b"], 2, "--labels has 2 names for 1 configs"),
        (["{config}", "{config}"], 2, "must be unique"),
        (["{config}", "--max-seconds", "0"], 2, "--max-seconds must be positive"),
        (["{config}"], 1, "no config could be measured at any side"),
    ],
)
def test_scaling_refuses(
    tool, run, cls_run, tmp_path, monkeypatch, capsys, arguments, code, message
):
    def measure(*_, **__):
        raise StepStopped("a step lasts more than 60 s")

    monkeypatch.setattr(tool, "measure", measure)
    given = [text.format(config=cls_run[0]) for text in arguments]
    with pytest.raises(SystemExit) as caught:
        run(*given, "--out", tmp_path / "scaling.png")
    assert caught.value.code == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "scaling.png").exists()
