"""Reading configs and options: what is wrong is said with file, expectation and remedy."""

import argparse
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from timm.layers import resample_abs_pos_embed
from torch._utils import ExceptionWrapper

from hook.engine.configs import add_config_options, config_errors, config_root, load_config
from hook.engine.models import fit_loaded_weights
from hook.engine.runner import (
    _first_slurm_host,
    _leave_processes,
    add_common_options,
    prepare,
    set_amp,
    set_auto_scale_lr,
    set_output,
    set_resume,
    set_show_dir,
    set_work_dir,
    setup_distributed,
    unwrap_worker_error,
    worker_errors,
)
from hook.errors import CheckpointError, ConfigError, DataError
from hook.tokenizers import HookTokenizer, PatchEmbedTokenizer


def _write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model = dict(type='X'", "SyntaxError"),
        ("model = dict(type=undefined)", "NameError"),
        ("_base_ = ['missing.py']\nmodel = dict(type='X')", "missing.py"),
        ("model = dict(type='X', depth=1 / 0)", "ZeroDivisionError"),
        ("lr = 1", "describes no model"),
        ("model = dict(type='X')\ntrain_dataloder = dict()", "train_dataloder"),
        ("model = dict(type='X')\noptim_wraper = dict()", "optim_wrapper"),
        ("model = dict(type='X')\nrandomness = dict(sed=1)", "randomness.seed"),
        ("model = dict(type='X')\nvisualiser = dict()", "'visualizer'"),
        ("model = dict(type='X', test_cfg=dict(mod='slide'))", "model.test_cfg.mode"),
        ("model = dict(type='X')\nenv_cfg = dict(cudnn_benchmrk=True)", "env_cfg.cudnn_benchmark"),
        ("model = dict(type='X')\nauto_scale_lr = dict(base_batchsize=8)", "base_batch_size"),
        (
            "model = dict(type='X')\ndefault_hooks = dict(chekpoint=dict(interval=5))",
            "'checkpoint'",
        ),
        ("model = dict(type='X')\noptim_wrapper = dict(clip_grad=dict(max_nrm=1))", "max_norm"),
        (
            "model = dict(type='X')\noptim_wrapper = dict(paramwise_cfg=dict(norm_decay_mul=0.0))",
            "optim_wrapper.paramwise_cfg.norm_decay_mult",
        ),
        (
            "model = dict(type='X')\n"
            "optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'head': dict(lr_mul=9)}))",
            "custom_keys.head.lr_mult",
        ),
        (
            "model = dict(type='X')\n"
            "train_dataloader = dict(dataset=dict(type='Y', metainfo=dict(scal=0.1)))",
            "train_dataloader.dataset.metainfo.scale",
        ),
    ],
)
def test_broken_configs(tmp_path, text, says):
    path = _write(tmp_path / "broken.py", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_variables_of_a_config_are_not_mistaken_for_typos(tmp_path):
    text = "model = dict(type='X')\ndata_root = '.'\nnorm_cfg = 1\ntta_pipeline = []\ncrop_size = 2"
    assert load_config(_write(tmp_path / "good.py", text)).crop_size == 2
    text = """model = dict(type='X', test_cfg=dict(mode='whole', patience=3))
default_hooks = dict(checkpoint2=dict(type='CheckpointHook'), early_stopping=dict(type='Y'))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0), 'pos': {}}))
val_dataloader = dict(dataset=dict(metainfo=dict(sensor='S2', classes=('a',), band_names=())))
"""
    assert load_config(_write(tmp_path / "own.py", text)).model.test_cfg.patience == 3


@pytest.mark.parametrize("path", sorted(config_root().glob("*/*.py")), ids=lambda p: p.stem)
def test_no_config_is_mistaken_for_a_typo(path):
    load_config(path, needs_model=False)


def test_missing_config_and_wrong_ending(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.py")
    with pytest.raises(ConfigError, match="unknown ending"):
        load_config(_write(tmp_path / "weights.pth", ""))


def test_cfg_options(tmp_path):
    path = _write(tmp_path / "c.py", "model = dict(type='X', depth=1)\nsteps = [1, 2]")
    assert load_config(path, {"model.depth": 3}).model.depth == 3
    with pytest.raises(ConfigError, match="--cfg-options"):
        load_config(path, {"steps.7": 3})


@pytest.mark.parametrize("pair", ["lr", "lr=[1,2"])
def test_malformed_cfg_options_exit_with_two(pair, capsys):
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--cfg-options", pair])
    assert caught.value.code == 2
    assert "KEY=VALUE" in capsys.readouterr().err
    good = parser.parse_args(["--cfg-options", "a.b=1", "c=[1,2]"])
    assert good.cfg_options == {"a.b": 1, "c": [1, 2]}


def _options(*pairs):
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    return parser.parse_args(["--cfg-options", *pairs]).cfg_options


@pytest.mark.parametrize(
    "value",
    ["a", "1", "1e-4", "true", "None", "", "a,b", "[a,(1,2),[]]", "(1,2.5)", "[]", "[a,]", "'a'"],
)
def test_options_without_spaces_read_as_in_mmengine(value):
    assert _options(f"key={value}") == {"key": DictAction._parse_iterable(value)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/my data/ x", "/my data/ x"),
        ("[s 0.tif, s1.tif]", ["s 0.tif", "s1.tif"]),
        ("a b,c d", ["a b", "c d"]),
        ("[(1, 2), [x y]]", [(1, 2), ["x y"]]),
        ("'my data'", "my data"),
        (" 2", 2),
        ("x=y z", "x=y z"),
    ],
)
def test_options_keep_their_spaces(value, expected):
    assert _options(f"key={value}") == {"key": expected}


def test_options_that_nothing_reads_are_named(tmp_path):
    text = (
        "rate = 0.5\nsize = dict(size=(8, 8))\ndata_preprocessor = dict(type='P', **size)\n"
        "model = dict(type='X', data_preprocessor=data_preprocessor, depth=1)\n"
        "optim_wrapper = dict(optimizer=dict(lr=rate))"
    )
    path = _write(tmp_path / "c.py", text)
    for key, value, setting in (
        ("rate", 0.1, "optim_wrapper.optimizer.lr"),
        ("size.size", (4, 4), "model.data_preprocessor.size"),
        ("data_preprocessor.size", (4, 4), "model.data_preprocessor.size"),
    ):
        with pytest.warns(UserWarning, match=f"{key} has no effect.* {setting}"):
            load_config(path, {key: value})
    with pytest.raises(ConfigError, match="no setting 'modle'") as caught:
        load_config(path, {"modle.depth": 2})
    assert "expected: model" in str(caught.value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_config(path, {"model.depth": 2, "load_from": "x.pth", "train_cfg.by": 1})
    assert (found.model.depth, found.load_from, found.train_cfg.by) == (2, "x.pth", 1)


def test_options_that_arguments_set_are_refused(tmp_path):
    path = _write(tmp_path / "c.py", "model = dict(type='X')")
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    add_common_options(parser)
    for option, fixed in (("launcher=slurm", ()), ("load_from=x", ("load_from",))):
        args = parser.parse_args([str(path), "--cfg-options", option])
        with pytest.raises(ConfigError, match="has no effect"):
            prepare(args, fixed)


def test_work_dir_comes_from_option_config_or_name(tmp_path):
    cfg = Config({"work_dir": "from_config"})
    set_work_dir(cfg, "a/b/name.py", "given")
    assert cfg.work_dir == "given"
    cfg = Config({"work_dir": "from_config"})
    set_work_dir(cfg, "a/b/name.py", None)
    assert cfg.work_dir == "from_config"
    cfg = Config({})
    set_work_dir(cfg, "a/b/name.py", None)
    assert cfg.work_dir == "work_dirs/name"


def _optim(kind, **more):
    return Config({"optim_wrapper": dict(type=kind, optimizer=dict(type="SGD", lr=0.1), **more)})


def test_amp_without_a_gpu(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = _optim("AmpOptimWrapper", loss_scale="dynamic")
    set_amp(cfg, asked=False)
    assert cfg.optim_wrapper.type == "OptimWrapper"
    assert "loss_scale" not in cfg.optim_wrapper
    cfg = _optim("OptimWrapper")
    set_amp(cfg, asked=False)
    assert cfg.optim_wrapper.type == "OptimWrapper"
    set_amp(cfg, asked=True)
    assert cfg.optim_wrapper.type == "CPUAmpOptimWrapper"
    model = torch.nn.Linear(4, 2)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    with wrapper.optim_context(model):
        loss = model(torch.ones(1, 4)).sum()
    assert loss.dtype == torch.bfloat16
    before = model.weight.detach().clone()
    wrapper.update_params(loss)
    assert torch.allclose(model.weight, before - 0.1)  # the gradient of the sum is one
    assert model.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("facts", "warned"),
    [
        (dict(architecture="x86_64", avx2=True, avx512_bf16=False, amx_bf16=False), True),
        (dict(architecture="x86_64", avx512_bf16=True), False),
        (dict(architecture="x86_64", avx512_bf16=False, amx_bf16=True), False),
        (dict(architecture="aarch64", bf16=True), False),
        ({}, False),  # not known
    ],
)
def test_amp_on_a_cpu_that_emulates_bfloat16_is_warned_of(monkeypatch, facts, warned):
    said = []
    monkeypatch.setattr("hook.engine.runner.print_log", lambda text, *rest: said.append(text))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: facts, raising=False)
    set_amp(_optim("OptimWrapper"), asked=True)
    set_amp(_optim("AmpOptimWrapper"), asked=False)
    asked, not_asked = said
    assert "bfloat16 autocast" in asked and ("emulates" in asked) == warned
    assert "float32" in not_asked and ("use --amp" in not_asked) != warned


def test_amp_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = _optim("OptimWrapper")
    set_amp(cfg, asked=True)
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    assert cfg.optim_wrapper.loss_scale == "dynamic"
    with pytest.raises(ConfigError, match="--amp"):
        set_amp(_optim("ApexOptimWrapper"), asked=True)


def test_auto_scale_lr():
    cfg = Config({"auto_scale_lr": dict(enable=False, base_batch_size=8)})
    set_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ConfigError, match="base_batch_size"):
        set_auto_scale_lr(Config({}))


def test_resume(tmp_path, caplog):
    cfg = Config({"work_dir": str(tmp_path)})
    set_resume(cfg, None)
    assert not cfg.get("resume")
    set_resume(cfg, "auto")
    assert cfg.resume is False
    with pytest.raises(CheckpointError, match="does not exist"):
        set_resume(cfg, str(tmp_path / "epoch_1.pth"))
    torch.save({"state_dict": {"w": torch.zeros(1)}}, tmp_path / "epoch_1.pth")
    set_resume(cfg, "auto")
    assert cfg.resume
    assert cfg.load_from == str(tmp_path / "epoch_1.pth")


def test_output_needs_a_metric_that_writes(tmp_path):
    cfg = Config({"test_evaluator": [dict(type="mmseg.IoUMetric"), dict(type="Other")]})
    set_output(cfg, tmp_path / "out")
    assert cfg.test_evaluator[0] == dict(type="hook.IoUMetric", output_dir=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="Other"):
        set_output(Config({"test_evaluator": dict(type="Other")}), tmp_path / "x")
    with pytest.raises(ConfigError, match="is a file"):
        set_output(cfg, _write(tmp_path / "f", ""))
    with pytest.raises(ConfigError, match="--show-dir"):
        set_show_dir(Config(), tmp_path / "f" / "x")
    with pytest.raises(ConfigError, match="describes no model"):
        load_config(_write(tmp_path / "data.py", "train_dataloader = dict()"))
    assert load_config(tmp_path / "data.py", needs_model=False).train_dataloader == {}


def test_config_errors_keep_ours_and_convert_theirs():
    with pytest.raises(DataError, match="mine"), config_errors("part"):
        raise DataError("mine")
    with pytest.raises(ConfigError, match="part of the config") as caught, config_errors("part"):
        raise KeyError("X is not in the hook::model registry. Please check whether ... https://x")
    assert "https" not in str(caught.value)
    with pytest.raises(DataError, match="missing"), config_errors("part"):
        raise FileNotFoundError("a.tif")
    with pytest.raises(ConfigError, match="not supported"), config_errors("optim_wrapper"):
        raise NotImplementedError  # mmseg's decay of learning rates, for a backbone it lacks
    with pytest.raises(ZeroDivisionError), config_errors("part"):  # a defect stays one
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("setter", "cfg"),
    [
        (set_amp, {"optim_wrapper": {"type": 2.5}}),
        (set_amp, {"optim_wrapper": 3}),
        (set_auto_scale_lr, {"optim_wrapper": None, "auto_scale_lr": 16}),
    ],
)
def test_options_of_a_config_whose_sections_are_none_are_refused(setter, cfg):
    with pytest.raises(ConfigError, match="of the config cannot be built"):
        setter(Config(cfg), *[True] * (setter is set_amp))


def test_errors_of_workers_arrive_without_a_traceback():
    # What a data loader does with an error of its worker process.
    try:
        raise DataError("a.tif is bad", expected="3 bands", found="4 bands")
    except DataError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(DataError) as caught:
        wrapped.reraise()
    assert "Traceback" in str(caught.value)  # PyTorch's copy
    plain = unwrap_worker_error(caught.value)
    assert str(plain) == "a.tif is bad\n  expected: 3 bands\n  found: 4 bands"
    own = DataError("of this process")
    assert unwrap_worker_error(own) is own


def test_slurm_hosts():
    assert _first_slurm_host("node[03-05,09]") == "node03"
    assert _first_slurm_host("a1,b[2-3]") == "a1"
    assert _first_slurm_host("login") == "login"
    assert _first_slurm_host("n[7]") == "n7"


@pytest.mark.parametrize("launcher", ["pytorch", "slurm", "mpi"])
def test_a_launcher_that_did_not_start_the_process_is_named(launcher, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=f"--launcher {launcher}"):
        setup_distributed(Config({"launcher": launcher}))


def test_mmseg_is_found_under_the_name_it_is_installed_by():
    import importlib.metadata

    from mmengine.config.utils import MODULE2PACKAGE

    from hook.engine.configs import setup_environment

    setup_environment()
    assert importlib.metadata.version(MODULE2PACKAGE["mmseg"])


def test_images_a_tokenizer_cannot_take():
    tokenizer = HookTokenizer(img_size=32, seed_dims=16, embed_dims=16)
    with pytest.raises(ConfigError, match="do not fit the tokenizer") as caught, worker_errors():
        tokenizer(torch.rand(1, 3, 3, 32))
    assert "3 x 32" in str(caught.value)
    with pytest.raises(ValueError, match="of another kind"), worker_errors():
        raise ValueError("of another kind")


def test_positions_of_a_different_image_size_are_resampled():
    options = dict(patch_size=8, embed_dims=6, with_pos_embed=True)
    small, large = (PatchEmbedTokenizer(size, **options) for size in (32, (48, 64)))
    weights = small.state_dict()
    assert fit_loaded_weights(large, weights, "epoch_1.pth")
    expected = resample_abs_pos_embed(small.pos_embed, [6, 8], [4, 4], num_prefix_tokens=0)
    assert torch.allclose(weights["pos_embed"], expected)
    large.load_state_dict(weights)
    odd = {"pos_embed": torch.zeros(1, 11, 6)}
    with pytest.warns(UserWarning, match="start anew"):
        assert not fit_loaded_weights(large, odd, "epoch_1.pth")
    assert odd["pos_embed"].shape == (1, 11, 6)


@pytest.mark.parametrize("preset", ["reference", "fast"])
def test_the_first_layer_of_other_bands_keeps_those_of_the_same_name(preset):
    def model(bands):
        torch.manual_seed(bands)
        holder = torch.nn.Module()
        holder.tokenizer = HookTokenizer(
            preset=preset, img_size=16, in_channels=bands, seed_dims=16, embed_dims=16
        )
        return holder.eval()

    rgb, four = model(3), model(4)
    names = ["red", "green", "blue"], ["nir", "Red", "Green", "Blue"]
    images = torch.randn(2, 4, 16, 16)
    weights = rgb.state_dict()
    assert fit_loaded_weights(four, weights, "epoch_1.pth", *names)
    four.load_state_dict(weights)
    with torch.no_grad():  # what the new band shows changes nothing yet
        before, after = rgb.tokenizer(images[:, 1:]).tokens, four.tokenizer(images).tokens
    torch.testing.assert_close(after, before)
    # Three bands in another order.
    other, weights = model(3), rgb.state_dict()
    assert not fit_loaded_weights(other, weights, "epoch_1.pth", names[0], names[0])
    assert not fit_loaded_weights(other, weights, "epoch_1.pth", names[0], ["b4", "b3", "b2"])
    assert not fit_loaded_weights(other, weights, "epoch_1.pth", [4, 3, 2], [1, 2, 3])
    assert fit_loaded_weights(other, weights, "epoch_1.pth", names[0], names[0][::-1])
    other.load_state_dict(weights)
    with torch.no_grad():
        after = other.tokenizer(images[:, 1:].flip(1)).tokens
    torch.testing.assert_close(after, before)
    # Without names, grey images keep their response.
    weights = rgb.state_dict()
    assert fit_loaded_weights(four, weights, "epoch_1.pth", None, names[1])
    four.load_state_dict(weights)
    grey = images[:, :1]
    with torch.no_grad():
        before = rgb.tokenizer(grey.expand(-1, 3, -1, -1)).tokens
        after = four.tokenizer(grey.expand(-1, 4, -1, -1)).tokens
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    # Other widths fit nowhere.
    wide = {"tokenizer.stem.down1.conv.weight": torch.zeros(5, 3, 2, 2)}
    assert not fit_loaded_weights(model(4), dict(wide), "epoch_1.pth")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads of Linux")
def test_the_threads_of_a_process_group_end_with_it():
    """A wrapper of a finished run, in a cycle, would keep them until Python itself ends."""

    def threads():
        return [p.read_text().strip() for p in Path("/proc/self/task").glob("*/comm")]

    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model.itself = [model]
    torch.distributed.all_reduce(torch.ones(1))
    assert any("gloo" in name for name in threads())
    del model
    _leave_processes()
    assert not any("gloo" in name for name in threads())
    _leave_processes()  # harmless where none is left


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's malloc")
def test_memory_of_freed_tensors_is_used_again():
    code = """
import resource, sys, torch
from hook.engine.runner import keep_freed_memory
if "prepared" in sys.argv:
    keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step = lambda: [torch.ones(2**24), torch.ones(2**23)]
step(), step()
before = faults()
for _ in range(8):
    step()
print(faults() - before)
"""
    variables = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    pages = 8 * (2**26 + 2**25) // os.sysconf("SC_PAGESIZE")
    counts = []
    for option in ("", "prepared"):
        command = [sys.executable, "-c", code, option]
        run = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        counts.append(int(run.stdout))
    plain, prepared = counts
    if plain < pages / 2:  # huge pages, or another allocator
        pytest.skip(f"the system gave memory in {plain} pieces")
    assert prepared < pages / 100
