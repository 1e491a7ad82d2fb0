import json
import multiprocessing
import os
import pickle
from multiprocessing.connection import Connection
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from hook.engine import profiling
from hook.engine.profiling import (
    OutOfMemory,
    Step,
    StepSettings,
    StepStopped,
    fit_to_side,
    image_side,
    measure,
    prepare_output,
    write_json,
)
from hook.errors import ConfigError


@pytest.fixture
def config(cls_run, repo, monkeypatch) -> str:
    """A tiny classifier's config, which fresh processes can import too."""
    monkeypatch.syspath_prepend(repo / "tests" / "data")
    return str(cls_run[0])


def test_models_of_any_size_get_images_of_the_size_of_their_data():
    model = torch.nn.Module()
    model.backbone = torch.nn.Module()
    assert image_side(Config(dict(model={})), model) == 512
    data = dict(type="hook.GeoTIFFFolder", chip_size=256)
    cfg = Config(dict(model={}, val_dataloader=dict(dataset=data)))
    assert image_side(cfg, model) == 256
    model.backbone.tokenizer = torch.nn.Module()
    model.backbone.tokenizer.img_size = (64, 64)
    assert image_side(cfg, model) == 64


def test_saved_bytes_are_those_of_the_graph():
    step = Step.__new__(Step)
    step.model = torch.nn.Linear(10, 20, bias=False)
    inputs = torch.randn(5, 10)
    step.loss = lambda: torch.relu(step.model(inputs)).sum()
    # The linear layer keeps its input, the rectifier its result; weights are not counted.
    assert step.saved_bytes() == (5 * 10 + 5 * 20) * 4


def test_channels_last_is_the_same_computation(config):
    answers = []
    for channels_last in (False, True):
        step = Step(config, StepSettings(batch_size=2, channels_last=channels_last))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert step.inputs.is_contiguous(memory_format=layout)
        kernels = [p for p in step.model.parameters() if p.ndim == 4]
        assert kernels and all(p.is_contiguous(memory_format=layout) for p in kernels)
        step()
        with torch.no_grad():
            answers.append(step.model(step.inputs, mode="tensor"))
    torch.testing.assert_close(*answers)


def test_training_steps_of_a_segmentor(seg_run):
    step = Step(str(seg_run[0]), StepSettings(mode="train", batch_size=2), side=48)
    assert tuple(step.inputs.shape) == (2, 2, 48, 48)
    before = [p.detach().clone() for p in step.model.parameters()]
    assert step.seconds() > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))
    step.reset_optimizer()
    assert all(p.grad is None for p in step.model.parameters())


def test_steps_that_fail(config):
    step = Step(config, StepSettings())

    def fail(error):
        def forward(*_, **__):
            raise error

        step.model = forward
        step()

    with pytest.raises(ConfigError, match="does not support these images"):
        fail(ValueError("too small"))
    with pytest.raises(OutOfMemory, match="more memory than available"):
        fail(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"))
    with pytest.raises(RuntimeError, match="a defect"):  # keeps its traceback
        fail(RuntimeError("a defect"))


# ---------------------------------------------------------------------------------- sizes
class _AnySize(torch.nn.Module):
    def __init__(self, embed_dims, in_channels=3):
        super().__init__()


def _config(tokenizer, **backbone):
    return Config(
        {
            "model": {
                "data_preprocessor": {"type": "hook.SegDataPreProcessor", "size": (224, 224)},
                "backbone": {"type": "hook.TokenViT", "tokenizer": tokenizer, **backbone},
            },
            "data_preprocessor": {"type": "hook.ClsDataPreProcessor"},
        }
    )


def test_models_are_built_for_a_side():
    cfg = _config({"type": "hook.HookTokenizer"}, dense_size=(14, 28))  # img_size is the default
    fit_to_side(cfg, 448)
    assert cfg.model.backbone.tokenizer.img_size == 448
    assert cfg.model.backbone.dense_size == (28, 56)  # a grid on the image
    assert cfg.model.data_preprocessor["size"] == (448, 448)
    assert "size" not in cfg.data_preprocessor
    cfg = _config({"type": "hook.PatchEmbedTokenizer", "img_size": (64, 128)}, dense_size=8)
    fit_to_side(cfg, 32)
    assert cfg.model.backbone.tokenizer.img_size == 32
    assert cfg.model.backbone.dense_size == (4, 2)


def test_tokenizers_without_a_size_are_left_alone():
    cfg = _config({"type": _AnySize}, dense_size=8)
    fit_to_side(cfg, 448)
    assert "img_size" not in cfg.model.backbone.tokenizer
    assert cfg.model.backbone.dense_size == 8
    cfg = Config({"model": {"type": "EncoderDecoder", "backbone": {"type": "mmseg.ResNet"}}})
    fit_to_side(cfg, 448)
    assert cfg.model.backbone == {"type": "mmseg.ResNet"}


# ---------------------------------------------------------------------------------- reports
def test_reports_tell_no_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv",
        ["/opt/tool.py", f"{tmp_path}/configs/a.py", "--json=/elsewhere/b.json", "x.y=1"],
    )
    head = profiling.report_head(StepSettings(amp=True, channels_last=True), repeats=3)
    assert head["command"] == "python tool.py configs/a.py --json=b.json x.y=1"
    assert head["precision"] == "bfloat16 autocast"
    assert head["memory_format"] == "channels last"
    assert head["machine"]["threads"] == torch.get_num_threads()
    assert set(head["machine"]) == {"cpu", "gpu", "threads", "python", "torch", "timm", "mmengine"}
    json.dumps(head)


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    profiling.prepare(StepSettings())
    with pytest.raises(ConfigError, match="C\\+\\+ compiler") as caught:
        profiling.prepare(StepSettings(compile=True))
    assert "no-such-compiler" in caught.value.found


# ---------------------------------------------------------------------------------- processes
def test_a_fresh_process_measures(config):
    measured = measure(config, StepSettings(batch_size=2, threads=1), side=32, repeats=2)
    assert measured.shape == (2, 3, 32, 32)
    assert len(measured.seconds) == 2 and min(measured.seconds) > 0
    assert measured.peak_memory >= 0


class _Process:
    """Stands in for a process: says what it is told to, then hangs or ends."""

    def __init__(self, messages=(), exitcode=None):
        self.messages, self.exitcode, self.pid = messages, exitcode, os.getpid()

    def __call__(self, target, args, daemon):
        self.pipe = Connection(os.dup(args[0].fileno()), readable=False)
        return self

    def start(self):
        for message in self.messages:
            self.pipe.send(message)
        if self.exitcode is not None:
            self.pipe.close()

    def kill(self):
        self.pipe.close()

    def join(self):
        pass


@pytest.fixture
def process(monkeypatch):
    """Let :func:`measure` start a stand-in."""

    def replace(*options):
        context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=_Process(*options))
        monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)

    return replace


def test_a_process_is_stopped_at_its_limits(process, monkeypatch):
    process(["built", "warm", "warm"])
    with pytest.raises(StepStopped, match="more than 0.01 s") as caught:
        measure("a.py", StepSettings(), max_seconds=0.01)
    assert caught.value.limit == "time"
    resident = iter([10 * 2**30, 11 * 2**30, 12.5 * 2**30])
    monkeypatch.setattr(profiling, "_resident", lambda _: next(resident))
    process(["built", "warm"])
    with pytest.raises(OutOfMemory, match="more than 2 GiB") as caught:
        measure("a.py", StepSettings(), max_memory=2 * 2**30)
    assert caught.value.limit == "memory"


def test_a_process_that_ends(process):
    process(["built"], -9)
    with pytest.raises(OutOfMemory, match="the system killed the process"):
        measure("a.py", StepSettings())
    process([], 1)
    with pytest.raises(ConfigError, match="a.py cannot be measured") as caught:
        measure("/somewhere/a.py", StepSettings())
    assert not isinstance(caught.value, StepStopped)
    process([ConfigError("bad config")])
    with pytest.raises(ConfigError, match="bad config"):
        measure("a.py", StepSettings())


class _Messages(list):
    send = list.append


def test_errors_of_a_process_are_sent(tmp_path):
    messages = _Messages()
    profiling._work(messages, str(tmp_path / "missing.py"), StepSettings(), None, 1, None)
    (error,) = messages
    assert isinstance(error, ConfigError)
    kept = pickle.loads(pickle.dumps(OutOfMemory("too much", found=3)))
    assert isinstance(kept, OutOfMemory) and str(kept) == "too much\n  found: 3"


def test_the_parent_hears_of_every_step(config):
    messages = _Messages()
    profiling._work(messages, config, StepSettings(warmup=1), 32, 2, None)
    assert messages[:-1] == ["built", "warm", "step", "step", "step"]
    assert messages[-1].shape == (1, 3, 32, 32)


def test_a_report_replaces_no_argument(tmp_path):
    for name in ("a.py", "b.pth", "old.json"):
        (tmp_path / name).write_text(name)
    given = dict(configs=[tmp_path / "a.py"], model=[["name", str(tmp_path / "b.pth")]], rate=0.5)
    prepare_output(SimpleNamespace(**given, json=tmp_path / "old.json", out=None), "json", "out")
    for name in ("a.py", "b.pth"):
        with pytest.raises(ConfigError, match=f"{name}: is an input"):
            prepare_output(SimpleNamespace(**given, json=tmp_path / name), "json")
    with pytest.raises(ConfigError, match=r"--json .*notes\.txt: unknown format"):
        prepare_output(SimpleNamespace(json=tmp_path / "notes.txt"), "json")
    with pytest.raises(ConfigError, match="--json .* is a folder"):
        prepare_output(SimpleNamespace(json=tmp_path), "json")
    write_json(tmp_path / "old.json", {"a": 1})
    assert json.loads((tmp_path / "old.json").read_text()) == {"a": 1}
