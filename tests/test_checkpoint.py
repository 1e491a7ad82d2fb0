"""Checkpoints: safe reading, damaged files, comparison with the model."""

import errno
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import nn

from hook.checkpoint import (
    check_classes,
    check_some_weights,
    check_state_dict,
    find_resumable,
    get_state_dict,
    load_checkpoint,
    load_weights,
    use_safe_loading,
    warn_input_changes,
)
from hook.errors import CheckpointError, ConfigError
from hook.zoo import find_model


class _Payload:
    """Unpickles to a call that leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class _Attribute:
    """Unpickles to the getattr call that MMEngine's own list of safe functions lets through."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "register_statistics")


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def saved(tmp_path):
    """A checkpoint with everything MMEngine writes."""
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {
        "state_dict": _model().state_dict(),
        "meta": {
            "epoch": 3,
            "dataset_meta": {"classes": ("a", "b"), "mean": np.array([1.0, 2.0])},
            "extra": ConfigDict(scale=0.5),
        },
        "message_hub": {"log_scalars": {"loss": buffer}, "best": np.float64(0.5)},
    }
    path = tmp_path / "epoch_3.pth"
    torch.save(content, path)
    return path


def test_what_mmengine_writes_is_read(saved):
    content = load_checkpoint(saved)
    assert content["meta"]["dataset_meta"]["classes"] == ("a", "b")
    assert np.array_equal(content["meta"]["dataset_meta"]["mean"], [1.0, 2.0])
    assert content["meta"]["extra"].scale == 0.5
    assert content["message_hub"]["log_scalars"]["loss"].statistics("mean") == 1.5
    assert content["message_hub"]["best"] == 0.5


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    weights = {k: v.clone() for k, v in _model().state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    content = load_checkpoint(tmp_path / "w.safetensors")
    assert all(torch.equal(content["state_dict"][k], v) for k, v in weights.items())
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:50])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "w.safetensors")


@pytest.mark.parametrize("where", ["state_dict", "meta", "top"])
@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_pickle_runs_nothing(tmp_path, saved, where, legacy):
    mark = tmp_path / "pwned"
    content = load_checkpoint(saved)
    if where == "top":
        content = _Payload(mark)
    else:
        content[where]["x"] = _Payload(mark)
    path = tmp_path / "bad.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert not mark.exists()
    assert str(path) in str(caught.value)
    assert "would run code" in str(caught.value)
    assert "mkdir" in str(caught.value)
    # The file is what it claims to be: full unpickling does run it.
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickle_runs_nothing(tmp_path, protocol):
    mark = tmp_path / "pwned"
    path = tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps({"state_dict": _Payload(mark)}, protocol))
    with pytest.raises(CheckpointError, match="would run code") as caught:
        load_checkpoint(path)
    assert "mkdir" in str(caught.value)
    assert not mark.exists()


def test_getattr_reaches_nothing_but_statistics(tmp_path, saved):
    content = load_checkpoint(saved)
    content["x"] = _Attribute()
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "bad.pth")


def test_config_text_in_meta_is_dropped(tmp_path, saved):
    # Runner.resume would run meta['config'] as Python.
    content = load_checkpoint(saved)
    content["meta"]["config"] = f"import os; os.mkdir({str(tmp_path / 'pwned')!r})"
    torch.save(content, tmp_path / "bad.pth")
    assert "config" not in load_checkpoint(tmp_path / "bad.pth")["meta"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="truncated or not a checkpoint"):
        load_checkpoint(saved)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no file with failing reads")
def test_a_failing_disk_is_named(tmp_path):
    (tmp_path / "a.pth").symlink_to("/proc/self/mem")
    with pytest.raises(CheckpointError, match=r"a\.pth cannot be read") as caught:
        load_checkpoint(tmp_path / "a.pth")
    assert caught.value.found == os.strerror(errno.EIO)


def test_not_a_checkpoint(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    with zipfile.ZipFile(tmp_path / "archive.pth", "w") as archive:
        archive.writestr("a.txt", "hello")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("text", "archive", "list"):
        with pytest.raises(CheckpointError, match=f"{name}.pth"):
            load_checkpoint(tmp_path / f"{name}.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is not a file"):
        load_checkpoint(tmp_path)


def test_mmengine_loads_through_the_safe_reader(tmp_path, saved):
    from mmengine.runner import CheckpointLoader
    from mmengine.runner.checkpoint import _load_checkpoint_with_prefix

    use_safe_loading(find_model)
    use_safe_loading(find_model)
    weights = _load_checkpoint_with_prefix("0.", str(saved), map_location="cpu")
    assert sorted(weights) == ["bias", "weight"]
    mark = tmp_path / "pwned"
    torch.save({"state_dict": {"w": _Payload(mark)}}, tmp_path / "bad.pth")
    published = CheckpointLoader.load_checkpoint("hook://hook-fast-tiny_eurosat")
    assert published["meta"]["dataset_meta"]["bands"] == ["red", "green", "blue"]
    with pytest.raises(ConfigError, match="hook-fast-tiny_eurosat"):  # names the nearest
        CheckpointLoader.load_checkpoint("hook://hook-fast-tiny_eurosta")
    # Local files, and what the other schemes read after their download.
    from mmengine.runner import checkpoint as module

    for load in (CheckpointLoader.load_checkpoint, module._safe_torch_load):
        with pytest.raises(CheckpointError):
            load(str(tmp_path / "bad.pth"), map_location="cpu")
    with (tmp_path / "bad.pth").open("rb") as stream, pytest.raises(pickle.UnpicklingError):
        module._safe_torch_load(stream)
    assert not mark.exists()


def test_check_state_dict_names_keys_and_both_shapes(saved):
    model = _model()
    weights = get_state_dict(load_checkpoint(saved))
    check_state_dict(model, weights, saved)
    weights["0.weight"] = torch.zeros(5, 3)
    del weights["2.bias"]
    weights["head.new"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        check_state_dict(model, weights, saved)
    text = str(caught.value)
    assert "0.weight: (5, 3) in the checkpoint, (4, 3) in the model" in text
    assert "missing in the checkpoint (1): 2.bias" in text
    assert "not in the model (1): head.new" in text


def test_check_some_weights(saved):
    model = _model()
    weights = get_state_dict(load_checkpoint(saved))
    check_some_weights(model, {"0.bias": weights["0.bias"], "head.new": torch.zeros(1)}, saved)
    for foreign in ({"a.weight": torch.zeros(4)}, {"0.bias": torch.zeros(5)}):
        with pytest.raises(CheckpointError, match="none of its weights fits"):
            check_some_weights(model, foreign, saved)


def test_check_classes(saved):
    model = nn.Module()
    model.decode_head = nn.ModuleList([nn.Module(), nn.Module()])
    model.decode_head[-1].num_classes = 2
    checkpoint = load_checkpoint(saved)  # of the classes a and b
    check_classes(model, checkpoint, ("a", "b"), saved)
    check_classes(model, checkpoint, ("A", "B"), saved)  # other names for the same
    check_classes(model, {"state_dict": {}}, ("b", "a"), saved)  # a checkpoint without names
    with pytest.raises(ConfigError, match="different numbers of classes"):
        check_classes(model, checkpoint, ("a", "b", "c"), saved)
    with pytest.raises(ConfigError, match="a different order"):
        check_classes(model, checkpoint, ("b", "a"), saved)


def test_load_weights_takes_all_or_nothing(saved, tmp_path):
    model = _model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    content = load_checkpoint(saved)
    content["state_dict"] = {f"module.{k}": v for k, v in content["state_dict"].items()}
    torch.save(content, tmp_path / "wrapped.pth")
    del content["state_dict"]["module.2.bias"]
    torch.save(content, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="part.pth"):
        load_weights(model, tmp_path / "part.pth")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert load_weights(model, tmp_path / "wrapped.pth")["meta"]["epoch"] == 3
    assert torch.equal(model[0].weight, content["state_dict"]["module.0.weight"])


def test_find_resumable(tmp_path, saved):
    assert find_resumable(tmp_path / "nothing") is None
    whole = saved.read_bytes()
    later = tmp_path / "epoch_4.pth"
    later.write_bytes(whole)
    os.utime(saved, (1, 1))
    (tmp_path / "best_mIoU_epoch_3.pth").write_bytes(whole)
    assert find_resumable(tmp_path) == later
    (tmp_path / "last_checkpoint").write_text(f"/moved/away/{saved.name}")
    assert find_resumable(tmp_path) == saved
    saved.write_bytes(whole[:1000])
    assert find_resumable(tmp_path) == later
    later.write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        find_resumable(tmp_path)


def test_weights_that_are_not_numbers_are_refused(saved):
    model = nn.Linear(2, 2)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    weights["bias"][1] = float("nan")
    with pytest.raises(CheckpointError, match="not finite") as caught:
        check_state_dict(model, weights, saved)
    assert "bias" in str(caught.value)


def test_a_path_of_the_wrong_type():
    with pytest.raises(ConfigError, match="checkpoint=None"):
        load_checkpoint(None)


TRAINED = {"bands": ("red", "green", "nir"), "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}


def _inputs(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)):
    model = nn.Module()
    model.data_preprocessor = nn.Module()
    for name, values in (("mean", mean), ("std", std)):
        model.data_preprocessor.register_buffer(name, torch.tensor(values).view(-1, 1, 1))
    return model


@pytest.mark.parametrize(
    ("model", "meta", "trained", "named"),
    [
        ({}, {"bands": ("nir", "green", "red")}, {}, "metainfo.'bands'.*nir"),
        ({}, {"bands": (3, 2, 1)}, {"bands": (1, 2, 3)}, r"\(?\[3, 2, 1\]|3, 2, 1"),
        ({}, {"bands": ("red", "green")}, {}, "metainfo.'bands'"),
        ({"mean": (1.0, 2.0, 9.0)}, {}, {}, r"preprocessor\.mean"),
        ({"std": (1.0,)}, {}, {}, r"preprocessor\.std"),
    ],
)
def test_bands_and_statistics_unlike_the_checkpoints_are_warned_of(model, meta, trained, named):
    checkpoint = {"meta": {"dataset_meta": TRAINED | trained}}
    with pytest.warns(UserWarning, match=f"a.pth was trained with different .*{named}"):
        warn_input_changes(_inputs(**model), checkpoint, meta, "a.pth")


@pytest.mark.parametrize(
    ("meta", "checkpoint"),
    [
        ({"bands": ["Red", "green", "nir"]}, {"meta": {"dataset_meta": TRAINED}}),
        ({"bands": (1, 2, 3)}, {"meta": {"dataset_meta": TRAINED}}),  # names and numbers
        ({}, {"meta": {"dataset_meta": {"classes": ("a",)}}}),
        ({"bands": (1, 2)}, {}),
    ],
)
@pytest.mark.filterwarnings("error")
def test_equal_or_unknown_inputs_are_not_warned_of(meta, checkpoint):
    warn_input_changes(_inputs(), checkpoint, meta, "a.pth")
