"""tools/train.py as users run it: results, resume after a kill, options, bad input."""

import json
import signal

import pytest
import torch

from hook.checkpoint import load_checkpoint


def _scalars(work_dir) -> list[dict]:
    lines = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in file.read_text().splitlines()]
    return lines


def test_run_leaves_checkpoints_scalars_and_pictures(trained):
    _, work_dir = trained
    checkpoint = load_checkpoint(work_dir / "epoch_4.pth")
    assert checkpoint["meta"]["epoch"] == 4
    assert checkpoint["meta"]["iter"] == 16
    assert checkpoint["meta"]["dataset_meta"]["classes"] == ("dark", "light", "noisy")
    # Two numbered checkpoints and the best one remain; no partial files.
    assert sorted(p.name for p in work_dir.glob("epoch_*.pth")) == ["epoch_3.pth", "epoch_4.pth"]
    assert len(list(work_dir.glob("best_accuracy_top1_*.pth"))) == 1
    assert not list(work_dir.glob(".*partial"))
    losses = [r["loss"] for r in _scalars(work_dir) if "loss" in r]
    assert len(losses) == 16
    assert losses[-1] < losses[0]


def test_learning_rate_follows_torchs_own_schedulers(trained):
    _, work_dir = trained
    logged = [r["lr"] for r in _scalars(work_dir) if "lr" in r]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1e-2)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=5),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10),
        ],
        milestones=[6],
    )
    expected = []
    for _ in logged:
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert logged == pytest.approx(expected, rel=1e-6)


def test_pictures_of_validation_as_png_and_in_tensorboard(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, work_dir = trained
    for epoch in (2, 4):  # interval=2
        assert len(list((work_dir / f"vis/val/epoch_{epoch}").glob("*.png"))) == 1
    assert not (work_dir / "vis/val/epoch_1").exists()
    events = next(work_dir.glob("*/vis_data/events.out.tfevents.*"))
    log = EventAccumulator(str(events), size_guidance={"images": 0})
    log.Reload()
    images = log.Images("val/000")
    assert [image.step for image in images] == [2, 4]
    assert images[0].width > images[0].height  # panels side by side
    assert "accuracy/top1" in log.Tags()["scalars"]


def test_resume_after_a_kill_ends_where_the_whole_run_ends(trained, tools, tmp_path):
    config, whole = trained
    broken = tmp_path / "run"
    # 7 images in the check of the data and in each validation: the process is killed in the third
    # validation, after the checkpoint of the third epoch was written and before its score is known.
    killed = tools.run(
        "tools/train.py",
        config,
        "--work-dir",
        broken,
        "--cfg-options",
        "val_dataloader.dataset.kill_at=25",
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert load_checkpoint(broken / "epoch_3.pth")["meta"]["iter"] == 12
    assert not (broken / "epoch_4.pth").exists()
    # Partial files of a killed run must not prevent a resume.
    (broken / ".epoch_4.pth.partial").write_bytes(b"PK\x03\x04")
    (broken / "epoch_4.pth").write_bytes((broken / "epoch_3.pth").read_bytes()[:20_000])
    (broken / "last_checkpoint").write_text("")

    resumed = tools.run("tools/train.py", config, "--work-dir", broken, "--resume")
    assert "resumed epoch: 3, iter: 12" in resumed.stdout
    assert resumed.stderr == ""  # nor any library's advice

    left, right = (load_checkpoint(d / "epoch_4.pth") for d in (whole, broken))
    assert left["meta"]["iter"] == right["meta"]["iter"] == 16
    for key, value in left["state_dict"].items():
        assert torch.equal(value, right["state_dict"][key]), key
    infos = [c["message_hub"]["runtime_info"] for c in (left, right)]
    assert infos[0]["best_score"] == infos[1]["best_score"]
    for name in ("lr", "accuracy/top1"):  # in every step, the interrupted validation included
        logged = [{r["step"]: r[name] for r in _scalars(d) if name in r} for d in (whole, broken)]
        assert logged[0] == logged[1]
    names = [sorted(p.name for p in d.glob("best_*.pth")) for d in (whole, broken)]
    assert names[0] == names[1]


def test_bad_config_ends_with_a_message(tools, tmp_path):
    done = tools.run("tools/train.py", tmp_path / "none.py", check=False)
    assert done.returncode == 1
    assert "none.py does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_start_from_a_foreign_checkpoint_is_refused(tools, tiny, tmp_path):
    config = tiny.write_cls_config(tmp_path / "config.py")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}}, tmp_path / "resnet.pth")
    done = tools.run(
        "tools/train.py",
        config,
        "--work-dir",
        tmp_path / "run",
        "--cfg-options",
        f"load_from={tmp_path / 'resnet.pth'}",
        check=False,
    )
    assert done.returncode == 1
    assert "none of its weights fits" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "run").glob("*.pth"))
