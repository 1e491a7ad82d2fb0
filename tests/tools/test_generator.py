"""Generators through tools/train.py, on scenes with masks and a random autoencoder."""

import json

import pytest
import torch

from hook.checkpoint import load_checkpoint
from hook.engine.frozen_features import CODE_FILES, StoredFeatures

CONFIG = """
_base_ = ["codec.py"]
model = dict(
    _delete_=True,
    type="hook.TileGenerator",
    codec=_base_.model,
    codec_weights="{folder}/codec.pth",
    network=dict(
        type="hook.CodeTransformer", embed_dims=16, depth=1, num_heads=2, drop_rate=0.1
    ),
    tile_size=32,
    condition="map",
    num_classes=3,
    turn=True,
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-2, betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=3)]
val_evaluator = test_evaluator = [dict(type="hook.CodebookMetric")]
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.CodeCacheHook"),
    dict(type="EMAHook", ema_type="hook.WeightEMA", momentum=0.1),
]
"""
FLOW = """
_base_ = ["generator.py"]
model = dict(
    codec=dict(encoder=dict(out_channels=16), quantizer=dict(_delete_=True, {gaussian})),
    codec_weights="{folder}/gaussian.pth",
    network=dict(_delete_=True, type="hook.LightningDiT", embed_dims=16, depth=1, num_heads=2),
    condition="none",
    turn=False,
)
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
custom_hooks = [dict(type="hook.CodeCacheHook", folder="{folder}/shared")]
"""
GAUSSIAN = 'type="GaussianQuantizer", embed_dims=8'


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Configs of a generator and of its autoencoder, whose weights are random."""
    folder = tmp_path_factory.mktemp("generator")
    scenes = tiny.write_scenes(folder / "scenes")
    codec = tiny.write_codec_config(folder / "codec.py", scenes)
    checkpoint = torch.load(tiny.write_checkpoint(codec, folder / "codec.pth"), weights_only=True)
    for value in checkpoint["state_dict"].values():  # not those that a new model has
        if value.is_floating_point():
            value += 0.02 * torch.randn_like(value)
    torch.save(checkpoint, folder / "codec.pth")
    (folder / "generator.py").write_text(CONFIG.format(folder=folder.as_posix()))
    return folder


@pytest.fixture(scope="module")
def run(tools, folder):
    """Work dir of a run of four steps with maps as condition."""
    tools.run("tools/train.py", folder / "generator.py", "--work-dir", folder / "run")
    return folder / "run"


def scalars(work_dir):
    lines = [file.read_text().splitlines() for file in work_dir.glob("*/vis_data/scalars.json")]
    return [json.loads(line) for part in lines for line in part]


def test_a_run_learns_stored_codes_and_keeps_averages(run, folder):
    rows = scalars(run)
    steps = [row for row in rows if "loss" in row]
    assert [row["iter"] for row in steps] == [1, 2, 3, 4]
    assert steps[0]["loss_code0"] == pytest.approx(2.7726, abs=1e-3)  # log 16: a new network
    assert steps[-1]["loss_code0"] < steps[0]["loss_code0"]
    assert steps[0]["lr"] < steps[-1]["lr"] == pytest.approx(1e-2)
    assert any("codes/model_bits" in row for row in rows)
    (path,) = run.glob(CODE_FILES)
    codes = StoredFeatures(path)([0, 1])
    assert len(codes) == 8 and codes[0].shape == (2, 1, 8, 8) and codes[0].dtype == torch.int64
    checkpoint = load_checkpoint(run / "iter_4.pth")
    averaged, last = checkpoint["state_dict"], checkpoint["ema_state_dict"]
    name = "network.heads.0.weight"
    assert not torch.equal(averaged[name], last[f"module.{name}"])
    for key, value in load_checkpoint(folder / "codec.pth")["state_dict"].items():
        assert torch.equal(averaged[f"codec.{key}"], value), key


def test_a_trained_generator_is_tested(run, folder, tools, tmp_path):
    command = ("tools/test.py", folder / "generator.py", run / "iter_4.pth")
    tools.run(*command, "--work-dir", tmp_path)
    (metrics,) = tmp_path.glob("*/*.json")
    tested = json.loads(metrics.read_text())
    (trained,) = (row for row in scalars(run) if "codes/model_bits" in row)
    assert tested["codes/model_bits"] == pytest.approx(trained["codes/model_bits"], abs=1e-3)
    evaluator = tmp_path / "reconstruction.py"
    evaluator.write_text(
        f'_base_ = ["{(folder / "generator.py").as_posix()}"]\n'
        'test_evaluator = dict(_delete_=True, type="hook.ReconstructionMetric", data_range=255)\n'
    )
    failed = tools.run("tools/test.py", evaluator, *command[2:], check=False)
    assert "hook.ReconstructionMetric got samples without image, reconstruction" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_resumed_run_equals_the_unbroken_one(run, folder, tools, tmp_path):
    (stored,) = run.glob(CODE_FILES)
    (tmp_path / stored.name).write_bytes(stored.read_bytes())
    before = (tmp_path / stored.name).stat().st_mtime_ns
    start = run / "iter_2.pth"
    options = ("--work-dir", tmp_path, "--resume", start)
    done = tools.run("tools/train.py", folder / "generator.py", *options)
    assert "differs from an unbroken one" not in done.stdout
    assert [path.stat().st_mtime_ns for path in tmp_path.glob(CODE_FILES)] == [before]
    first, second = (load_checkpoint(path / "iter_4.pth") for path in (run, tmp_path))
    for key in ("state_dict", "ema_state_dict", "optimizer"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)


def test_a_run_is_not_resumed_with_another_autoencoder(run, folder, tools, tmp_path):
    codec = load_checkpoint(folder / "codec.pth")
    codec["state_dict"]["encoder.conv_in.bias"] += 0.1
    torch.save(codec, tmp_path / "other.pth")
    options = ("--work-dir", tmp_path / "again", "--resume", run / "iter_2.pth")
    options += ("--cfg-options", f"model.codec_weights={tmp_path}/other.pth")
    done = tools.run("tools/train.py", folder / "generator.py", *options, check=False)
    assert done.returncode == 1 and "another autoencoder" in done.stderr
    assert not list((tmp_path / "again").glob(CODE_FILES))


@pytest.fixture(scope="module")
def flow(folder, tiny):
    """Config of a flow over the latents of an autoencoder of its own."""
    base = '_base_ = ["codec.py"]\nmodel = dict(encoder=dict(out_channels=16), '
    base += f"quantizer=dict(_delete_=True, {GAUSSIAN}))\n"
    (folder / "gaussian.py").write_text(base)
    tiny.write_checkpoint(folder / "gaussian.py", folder / "gaussian.pth")
    config = folder / "flow.py"
    config.write_text(FLOW.format(folder=folder.as_posix(), gaussian=GAUSSIAN))
    return config


def test_a_flow_learns_normalised_latents(flow, folder, tools, tmp_path):
    tools.run("tools/train.py", flow, "--work-dir", tmp_path)
    steps = [row for row in scalars(tmp_path) if "loss" in row]
    # Noise and normalised latents both have the variance 1, and a new network predicts zero.
    assert steps[0]["loss_velocity"] == pytest.approx(2, abs=0.4)
    assert steps[0]["loss_direction"] == pytest.approx(1, abs=1e-3)
    (path,) = (folder / "shared").glob(CODE_FILES)
    (latents,) = StoredFeatures(path)(range(4))
    state = load_checkpoint(tmp_path / "iter_4.pth")["state_dict"]
    assert latents.shape == (4, 8, 8, 8) and (state["feature_std"] > 0).all()


def test_a_flow_is_drawn_towards_stored_features(flow, tools, tmp_path):
    config = tmp_path / "aligned.py"
    config.write_text(
        f'_base_ = ["{flow.as_posix()}"]\n'
        'frozen = dict(type="hook.FrozenBackbone", weights=None, levels=(0,), bands=(0, 1, 1))\n'
        "model = dict(frozen=frozen,\n"
        "    network=dict(alignment=dict(block=0, feature_channels=16)), turn=True)\n"
        'custom_hooks = [dict(type="hook.CodeCacheHook")]\n'
    )
    tools.run("tools/train.py", config, "--work-dir", tmp_path / "run")
    steps = [row["loss_alignment"] for row in scalars(tmp_path / "run") if "loss" in row]
    assert len(steps) == 4 and all(0 < value <= 1 for value in steps)
    (path,) = (tmp_path / "run").glob(CODE_FILES)
    *views, features = StoredFeatures(path)(range(4))
    assert len(views) == 8 and features.shape == (4, 16, 16, 16)
    state = load_checkpoint(tmp_path / "run" / "iter_4.pth")["state_dict"]
    assert "network.alignment.mlp.fc1.weight" in state and len(state["feature_std"]) == 8
    assert not any(key.startswith("frozen") for key in state)
