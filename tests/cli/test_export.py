"""``hook export`` in this process: the file, exit status, messages."""

import onnxruntime
import pytest

from hook.cli import main
from hook.inference import export


def _run(*argv):
    main(["export", *map(str, argv)])


def test_export(cls_run, tmp_path, capsys):
    out = tmp_path / "cls.onnx"
    out.write_text("old")
    options = ["--window", "20", "--num-tokens", "2", "--opset", "19"]
    with pytest.raises(SystemExit) as caught:
        _run(*cls_run, out, *options)
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "--overwrite" in message
    assert out.read_text() == "old"

    _run(*cls_run, out, *options, "--overwrite")
    summary = capsys.readouterr().err.splitlines()[-1]
    assert summary.startswith(f"{out}: images of 3 bands, 20 x 20 pixels, ")
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 20, 20]
    assert session.get_modelmeta().custom_metadata_map["num_tokens"] == "2"


def test_quiet(tmp_path, monkeypatch, capsys):
    given = {}

    def export_onnx(*args, **options):
        given.update(options)
        return export.ExportReport(tmp_path / "o.onnx", 8, 3, 1e-7, 1000)

    monkeypatch.setattr(export, "export_onnx", export_onnx)
    _run("c", "k", "o.onnx", "--quiet")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert given == dict(window=None, num_tokens=None, opset=export.DEFAULT_OPSET, overwrite=False)


def test_missing_packages_end_with_one(cls_run, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it fails
    with pytest.raises(SystemExit) as caught:
        _run(*cls_run, tmp_path / "x.onnx")
    assert caught.value.code == 1
    assert "pip install 'hook-rs[export]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["c", "k"], ["c", "k", "o.onnx", "--window", "0"], ["c", "k", "o.onnx", "--opset", "x"]],
)
def test_bad_options_exit_with_two(arguments):
    with pytest.raises(SystemExit) as caught:
        _run(*arguments)
    assert caught.value.code == 2
