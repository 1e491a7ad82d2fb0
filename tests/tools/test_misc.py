"""print_config and publish_model."""

import hashlib
import json
import sys

import pytest
import torch

from hook.apis import load_model
from hook.checkpoint import load_checkpoint
from hook.errors import CheckpointError, ConfigError


def test_printed_config_is_a_config(load_tool, cls_run, tmp_path, monkeypatch, capsys):
    from hook.engine.configs import load_config

    config, _ = cls_run
    argv = ["print_config.py", str(config), "--cfg-options", "optim_wrapper.optimizer.lr=0.5"]
    monkeypatch.setattr(sys, "argv", argv)
    load_tool("misc/print_config.py").main()
    printed = tmp_path / "printed.py"
    printed.write_text(capsys.readouterr().out)
    again = load_config(printed)
    assert again.optim_wrapper.optimizer.lr == 0.5
    assert again.model == load_config(config).model


def test_published_checkpoint_is_smaller_equal_and_named_by_its_digest(
    load_tool, trained, tmp_path
):
    publish = load_tool("misc/publish_model.py").publish
    _, work_dir = trained
    source = work_dir / "epoch_4.pth"
    target = publish(str(source), str(tmp_path / "model.pth"))
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    assert target.name == f"model-{digest[:8]}.pth"
    assert publish(str(source), str(tmp_path / "model")) == target  # the same bytes again
    whole, published = load_checkpoint(source), load_checkpoint(target)
    assert sorted(published) == ["meta", "state_dict"]
    assert published["meta"]["dataset_meta"] == whole["meta"]["dataset_meta"]
    assert all(torch.equal(v, published["state_dict"][k]) for k, v in whole["state_dict"].items())
    assert target.stat().st_size < 0.6 * source.stat().st_size
    with pytest.raises(ConfigError, match="does not exist"):
        publish(str(source), str(tmp_path / "none" / "model.pth"))
    with pytest.raises(CheckpointError):
        publish(str(tmp_path / "none.pth"), str(tmp_path / "x.pth"))


def arguments(config, checkpoint, out, *more):
    return [str(checkpoint), str(out), "--format", "safetensors", "--config", str(config), *more]


def test_published_models_are_measured_before_and_after(
    load_tool, trained, tmp_path, listing, capsys
):
    config, work_dir = trained
    folder = listing()
    command = arguments(config, work_dir / "epoch_4.pth", "tiny-run", "--half", "--zoo")
    words = ["--licence", "CC0", "--data", "noise", "--measured-on", "seven images"]
    load_tool("misc/publish_model.py").main([*command, *words])
    assert "accuracy/top1" in capsys.readouterr().out
    entry = json.loads((folder / "models.json").read_text())["models"][0]
    model = load_model("tiny-run")
    scores = entry["metrics"]
    assert model.card.metrics == scores and 0 <= scores["accuracy/top1"] <= 100
    assert entry["file"] == "tiny-run.safetensors" and entry["licence"] == "CC0"
    assert (folder / entry["file"]).stat().st_size == entry["size"]
    # No settings for training only, and no local path.
    assert str(work_dir) not in model.card.to_json()


def test_a_model_that_half_precision_changes_is_not_published(
    load_tool, trained, tmp_path, monkeypatch, capsys
):
    config, work_dir = trained
    tool = load_tool("misc/publish_model.py")
    scores = iter([{"top1": 90.0}, {"top1": 89.0}])
    monkeypatch.setattr(tool, "_test", lambda *_: next(scores))
    with pytest.raises(SystemExit):
        tool.main(arguments(config, work_dir / "epoch_4.pth", tmp_path / "m", "--half"))
    assert "changes top1 too much" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_model_without_its_config_is_not_published(load_tool, trained, tmp_path, capsys):
    with pytest.raises(SystemExit):
        load_tool("misc/publish_model.py").main(
            [str(trained[1] / "epoch_4.pth"), str(tmp_path / "m"), "--format", "safetensors"]
        )
    assert "no config" in capsys.readouterr().err
