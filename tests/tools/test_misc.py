"""print_config and publish_model."""

import hashlib
import sys

import pytest
import torch

from hook.checkpoint import load_checkpoint
from hook.errors import CheckpointError, ConfigError


def test_printed_config_is_a_config(load_tool, cls_run, tmp_path, monkeypatch, capsys):
    from hook.engine.runner import load_config

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
