"""codec_table: every row is a config that builds, also with its images in memory."""

import json
import sys

import pytest
import torch

from hook.engine.configs import load_config, setup_environment
from hook.engine.models import build_model

PACKED = ["hook.PackClsSample"]


def test_every_row_builds(load_tool, repo):
    tool = load_tool("analysis_tools/codec_table.py")
    setup_environment()
    widths = {}
    for rows in tool.TABLES.values():
        for name, (config, options) in rows.items():
            path = repo / "configs" / "autoencoders" / f"{config}.py"
            cfg = load_config(path, options)
            if rows is tool.TABLES["alignment"]:  # they are compared, so they see equal images
                assert [one.type for one in cfg.train_dataloader.dataset.pipeline] == PACKED
            if "backbone" in cfg.model.encoder:
                cfg.model.encoder.backbone.weights = None  # those of an optional package
            with torch.device("meta"):
                widths[name] = build_model(cfg).decoder.in_channels
    assert widths["KL 8"] == widths["VA-VAE 8"] == 8 and widths["none"] == 32


def test_a_short_log_has_losses_and_the_validation(load_tool, tmp_path):
    tool = load_tool("analysis_tools/codec_table.py")
    run = tmp_path / "vq_seed1"
    lines = [dict(loss=1 / step, lr=1.0, time=0.5, iter=step, step=step) for step in (50, 250, 300)]
    (run / "1" / "vis_data").mkdir(parents=True)
    text = "\n".join(map(json.dumps, [*lines, dict(PSNR=30.123456, step=300)]))
    (run / "1" / "vis_data" / "scalars.json").write_text(text)
    tool.write_log(run, tmp_path / "logs")
    found = (tmp_path / "logs" / "vq_seed1.json").read_text().splitlines()
    assert list(map(json.loads, found)) == [
        dict(loss=0.004, step=250),
        dict(PSNR=30.12346, step=300),
    ]


def test_images_in_memory_have_the_crops_and_flips_of_the_config(load_tool, repo):
    tool = load_tool("analysis_tools/codec_table.py")
    setup_environment()
    cfg = load_config(repo / "configs/autoencoders" / f"{tool.VQ}.py")
    changes, packing = cfg.train_dataloader.dataset.pipeline
    assert [tuple(change.items()) for change in changes.transforms] == [
        (("type", "PadIfNeeded"), ("min_height", 72), ("min_width", 72), ("border_mode", 4)),
        (("type", "RandomCrop"), ("height", 64), ("width", 64)),
        (("type", "HorizontalFlip"), ("p", 0.5)),
        (("type", "VerticalFlip"), ("p", 0.5)),
    ]
    tool.hold_images(cfg, "cpu")
    assert all(one.type != "hook.FrozenFeatureHook" for one in cfg.custom_hooks)
    loader = cfg.train_dataloader
    assert loader.dataset.to_dict().keys() == {"type", "dataset", "device"}  # 4 pixels, flips
    assert list(loader.dataset.dataset.pipeline) == [packing] and loader.num_workers == 0


def test_a_finished_row_is_kept_and_not_taken_for_another(
    load_tool, eurosat_tiles, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("constriction", reason="constriction packs codes; it is an optional extra")
    tool = load_tool("analysis_tools/codec_table.py")
    data = [f"{part}_dataloader.dataset.data_root={eurosat_tiles}" for part in ("train", "test")]
    options = ["--cfg-options", *data, f"val_dataloader.dataset.data_root={eurosat_tiles}"]
    options += ["val_dataloader.dataset.split_list=splits/test.txt"]
    options += ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"]
    given = ["quantizers", "--rows", "FSQ", "--out", tmp_path / "runs", "--logs", tmp_path / "logs"]
    given += ["--benchmark=--classical none --classifier none"]

    def call(*more):
        monkeypatch.setattr(sys, "argv", [*map(str, ("codec_table.py", *given, *more, *options))])
        return tool.main()

    assert not call("--iters", 2)
    checkpoint = tmp_path / "runs" / "fsq_seed0" / "iter_2.pth"
    first = checkpoint.stat().st_mtime_ns
    assert (tmp_path / "logs" / "fsq_seed0.json").read_text()
    assert (tmp_path / "runs" / "quantizers" / "table.csv").is_file()
    assert not call("--iters", 2) and checkpoint.stat().st_mtime_ns == first
    with pytest.raises(SystemExit):
        call("--iters", 3)
    assert "finished run with other options" in capsys.readouterr().err
    assert checkpoint.stat().st_mtime_ns == first
