"""A scene shared by the workers of a scheduler that is there already, or by several GPUs."""

import os

import pytest
import torch
from mmengine.model import BaseModel

from hook.apis import SceneMapper, load_model
from hook.errors import ConfigError
from hook.inference.windows import WindowPredictor

distributed = pytest.importorskip("distributed", reason="the cluster extra is not installed")

# Windows two pixels apart: several blocks of windows, although the scene is small.
OPTIONS = {"overlap": 30, "batch_size": 3, "scores": ("probs",), "progress": False}
FILES = ("map.tif", "map.scores.tif", "map.tif.aux.xml", "map.qml", "map.json")


@pytest.fixture
def one_thread():
    """Answers do not depend on the machine's cores, in this process as in a worker."""
    threads = torch.get_num_threads()
    yield 1
    torch.set_num_threads(threads)


@pytest.fixture
def alone(seg_run, scenes, tmp_path, one_thread):
    """Folder with a map that this process makes."""
    (folder := tmp_path / "alone").mkdir()
    mapper = SceneMapper(seg_run, threads=one_thread)
    report = mapper.map(scenes / "images" / "second.tif", folder / "map.tif", **OPTIONS)
    assert report.windows > 2 * 64  # what a block has at least
    return folder


@pytest.fixture
def not_here(monkeypatch):
    """The model must not answer in this process; workers are processes of their own."""

    def forbid():
        monkeypatch.setattr(
            WindowPredictor, "__call__", lambda *_: pytest.fail("the model ran in this process")
        )

    return forbid


def assert_same_files(found, expected):
    for name in FILES:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert sorted(path.name for path in found.iterdir()) == sorted(FILES)


def test_workers_at_an_address_give_the_same_bytes(
    seg_run, scenes, alone, tmp_path, not_here, one_thread
):
    scene = scenes / "images" / "second.tif"
    mapper = SceneMapper(seg_run, threads=one_thread)
    not_here()
    # Workers with two threads each run two blocks at once, with one model.
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=2,
        dashboard_address=None,
        host="127.0.0.1",
        memory_limit=0,
        silence_logs=50,
    ) as cluster:
        with distributed.Client(cluster) as client:
            workers = client.run(os.getpid)
            (folder := tmp_path / "shared").mkdir()
            mapper.map(scene, folder / "map.tif", cluster=cluster.scheduler_address, **OPTIONS)
            # The map's end is not the cluster's, nor a worker's.
            assert len(workers) == 2 and client.run(os.getpid) == workers
    assert_same_files(folder, alone)


# Lets a process that has no GPU play one with two: the model stays on the CPU, and a note is left
# of the process and the device it was to go to.
STAND_IN = """
import os
from pathlib import Path

import torch
from mmengine.model import BaseModel

torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2


def to(self, device):
    Path({notes!r}, f"{{os.getpid()}} {{device}}").touch(exist_ok=False)
    return self


BaseModel.to = to
"""


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Notes of which process put the model on which GPU, where there are two in appearance."""
    import dask

    (notes := tmp_path / "notes").mkdir()
    (preload := tmp_path / "stand_in_gpus.py").write_text(STAND_IN.format(notes=str(notes)))
    for name, answer in (("is_available", True), ("device_count", 2)):
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)

    def to(self, device):
        (notes / f"{os.getpid()} {device}").touch(exist_ok=False)
        return self

    monkeypatch.setattr(BaseModel, "to", to)
    with dask.config.set({"distributed.worker.preload": [str(preload)]}):
        yield notes


def test_each_of_two_gpus_gets_a_worker(
    seg_run, scenes, alone, tmp_path, gpus, not_here, one_thread
):
    mapper = SceneMapper(seg_run, device="cuda:0,1", threads=one_thread)
    not_here()
    (folder := tmp_path / "shared").mkdir()
    # One process more than GPUs would put two models on one of these.
    mapper.map(scenes / "images" / "second.tif", folder / "map.tif", workers=1, **OPTIONS)
    notes = [note.name.split() for note in gpus.iterdir()]
    here = str(os.getpid())
    assert [device for process, device in notes if process == here] == ["cuda:0"]
    workers = {process: device for process, device in notes if process != here}
    assert len(workers) == len(notes) - 1 == 2  # each has loaded the model once
    assert sorted(workers.values()) == ["cuda:0", "cuda:1"]
    assert_same_files(folder, alone)


@pytest.mark.parametrize(
    "device",
    ["cpu:0,1", "mps:0,1", "cuda:0,", "cuda:0,cuda:1", "cuda:a,b", "cuda:0,-1", "cuda:0,0"],
)
def test_several_devices_of_which_there_is_one_are_refused(seg_run, device):
    with pytest.raises(ConfigError, match=f"device '{device}'") as caught:
        SceneMapper(seg_run, device=device)
    assert "cuda:0,1" in caught.value.expected and "--cluster local" in caught.value.remedy


def test_a_loaded_model_cannot_go_to_several_gpus(seg_run, scenes, tmp_path):
    # Workers load the model from its files, which a model in memory may no longer agree with.
    mapper = SceneMapper(load_model(seg_run), device="cuda:0,1")
    with pytest.raises(ConfigError, match="cannot be sent to several workers"):
        mapper.map(scenes / "images" / "second.tif", tmp_path / "map.tif", **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_gpus_of_a_machine_without_any_are_refused(seg_run, monkeypatch):
    def to(self, device):
        raise RuntimeError("no GPU is available\nand more lines")

    monkeypatch.setattr(BaseModel, "to", to)  # what PyTorch does there, on any machine
    with pytest.raises(ConfigError, match="device cuda:0 cannot be used"):
        SceneMapper(seg_run, device="cuda:0,1")
