"""An autoencoder with a discriminator through tools/train.py and tools/test.py."""

import json

import cv2
import pytest
import torch

from hook.checkpoint import load_checkpoint

WEIGHT_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def run(tools, tiny, tmp_path_factory):
    """Config and work dir of a run of four steps in mixed precision, on 16-bit scenes."""
    folder = tmp_path_factory.mktemp("codec")
    scenes = tiny.write_scenes(folder / "scenes")
    config = tiny.write_codec_config(folder / "codec.py", scenes)
    tools.run("tools/train.py", config, "--amp", "--work-dir", folder / "run")
    return config, folder / "run"


def scalars(work_dir):
    lines = [file.read_text().splitlines() for file in work_dir.glob("*/vis_data/scalars.json")]
    return [json.loads(line) for part in lines for line in part]


def test_a_run_logs_both_parts_and_keeps_their_averages(run):
    _, work_dir = run
    steps = [row for row in scalars(work_dir) if "loss" in row]
    assert [row["iter"] for row in steps] == [1, 2, 3, 4]
    assert "loss_adversarial" not in steps[0] and "discriminator_loss_lecam" in steps[1]
    assert steps[0]["autoencoder.lr"] < steps[3]["autoencoder.lr"] == 1e-3
    assert any("PSNR" in key for row in scalars(work_dir) for key in row)
    checkpoint = load_checkpoint(work_dir / "iter_4.pth")
    assert {*checkpoint["optimizer"]} == {"autoencoder", "discriminator"}
    name = "decoder.conv_out.weight"
    averaged, last = checkpoint["state_dict"], checkpoint["ema_state_dict"]
    assert not torch.equal(averaged[name], last[f"module.{name}"])


def test_a_resumed_run_equals_the_unbroken_one(run, tools, tmp_path):
    config, whole = run
    start = whole / "iter_2.pth"
    done = tools.run("tools/train.py", config, "--amp", "--work-dir", tmp_path, "--resume", start)
    assert "differs from an unbroken one" not in done.stdout
    first, second = (load_checkpoint(folder / "iter_4.pth") for folder in (whole, tmp_path))
    for key in ("state_dict", "ema_state_dict", "optimizer"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)


def test_testing_measures_what_the_validation_measured(run, tools, tmp_path):
    config, work_dir = run
    shown, checkpoint = tmp_path / "pictures", work_dir / "iter_4.pth"
    options = ("--work-dir", tmp_path, "--show-dir", shown)
    out = tools.run("tools/test.py", config, checkpoint, *options).stdout
    expected = {k: v for row in scalars(work_dir) for k, v in row.items() if "PSNR" in k}
    found = json.loads(next(tmp_path.glob("*/*.json")).read_text())
    assert expected and {k: found[k] for k in expected} == expected, out[-2000:]
    picture = cv2.imread(str(next(shown.glob("*.png"))))
    assert picture.shape[1] > picture.shape[0]  # image and reconstruction side by side


def test_two_processes_give_the_weights_of_one(tools, tiny, tmp_path):
    scenes = tiny.write_scenes(tmp_path / "scenes")
    extra = """
custom_imports = dict(imports=["tiny_runs"])
train_dataloader = dict(
    sampler=dict(shuffle=False),
    batch_size={batch},
    dataset=dict(_delete_=True, type="TinyClassification", count=8),
)
train_cfg = dict(max_iters=3)
val_cfg = val_dataloader = val_evaluator = None
param_scheduler = None
model = dict(
    data_preprocessor=dict(mean=[0.5] * 3, std=[0.3] * 3),
    encoder=dict(in_channels=3),
    decoder=dict(out_channels=3),
    quantizer=dict(restart=False),  # restarted codes are drawn from the batch
    discriminator=dict(in_channels=3, norm="group"),
    equivariance=None,
)
optim_wrapper = dict(
    autoencoder=dict(optimizer=dict(_delete_=True, type="SGD", lr=0.02)),
    discriminator=dict(optimizer=dict(_delete_=True, type="SGD", lr=0.02)),
)
default_hooks = dict(checkpoint=dict(interval=3))
"""
    states = []
    tiny.write_codec_config(tmp_path / "base.py", scenes)
    for name, batch in (("one", 4), ("two", 2)):
        config = tmp_path / f"{name}.py"
        config.write_text('_base_ = ["base.py"]\n' + extra.format(batch=batch))
        out = "--work-dir", tmp_path / name
        if name == "one":
            tools.run("tools/train.py", config, *out)
        else:
            tools.run_pair("tools/dist_train.sh", config, "2", *out)
        states.append(load_checkpoint(tmp_path / name / "iter_3.pth")["state_dict"])
    torch.testing.assert_close(*states, rtol=1e-3, atol=WEIGHT_TOLERANCE)
