"""One scene on several processes."""

import importlib
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hook.errors import SceneError
from hook.scenes import MapRequest, cluster, map_scene
from hook.scenes.cluster import connect, load_on_workers, on_cluster

distributed = pytest.importorskip("distributed", reason="the cluster extra is not installed")


@pytest.fixture(scope="module")
def models():
    """The module of models, which workers import too."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(Path(__file__).parent)
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", folder)
        yield importlib.import_module("cluster_models")


@pytest.fixture
def scene(write_scene):
    values = np.random.default_rng(0).integers(0, 255, (3, 400, 100)).astype(np.uint8)
    return write_scene(values, nodata=0)


OPTIONS = {"window": 32, "batch_size": 3, "block_windows": 8, "progress": False}


def run_on(client, make, scene, output, devices=None, **options):
    request = MapRequest(scene, output, **OPTIONS, **options)
    blocks = on_cluster(client, make, f"{output}", devices)
    return map_scene(None, request, num_classes=3, run_blocks=blocks)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_same_bytes_as_without_a_cluster(models, scene, tmp_path, workers):
    (notes := tmp_path / "notes").mkdir()
    make, devices = models.MakeModel(notes), ["a", "b", "c", "d"]
    request = MapRequest(scene, tmp_path / "one.tif", scores=("probs",), **OPTIONS)
    map_scene(make("here"), request, num_classes=3)
    (notes / f"{os.getpid()}.here").unlink()
    with connect("local", workers) as client:
        report = run_on(client, make, scene, tmp_path / "many.tif", devices, scores=("probs",))
    assert (
        report.pixels
        == (report.class_pixels[0] + report.class_pixels[1]) + (report.class_pixels[2])
    )
    for ending in ("tif", "scores.tif"):
        one, many = (tmp_path / f"{name}.{ending}" for name in ("one", "many"))
        assert many.read_bytes() == one.read_bytes()
    loaded = [path.name.split(".")[1] for path in notes.iterdir()]
    assert sorted(loaded) == devices[:workers]  # once per worker, each on its device


@pytest.mark.parametrize("loading", [False, True])
def test_a_lost_workers_blocks_run_elsewhere(models, scene, tmp_path, loading):
    (notes := tmp_path / "notes").mkdir()
    request = MapRequest(scene, tmp_path / "one.tif", **OPTIONS)
    map_scene(models.MakeModel(notes)("here"), request, num_classes=3)
    with connect("local", 2) as client:
        victim = min(client.run(os.getpid).values())
        make = models.KillOnce(tmp_path, victim, loading)
        if loading:
            load_on_workers(client, make, f"{tmp_path / 'many.tif'}")
        run_on(client, make, scene, tmp_path / "many.tif")
    assert (tmp_path / "killed").exists()
    assert (tmp_path / "many.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()


def test_an_error_of_a_worker_is_the_runs(models, scene, tmp_path):
    (notes := tmp_path / "notes").mkdir()
    cores = len(os.sched_getaffinity(0))
    with connect("local", 1, threads=cores) as client:
        (variables,) = client.run(lambda: dict(os.environ)).values()
        assert variables["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", str(cores))
        # These would make threads sleep between operations, and allocations slow.
        assert not {"OMP_WAIT_POLICY", "MALLOC_TRIM_THRESHOLD_"} & ({*variables} - {*os.environ})
        with pytest.raises(RuntimeError, match="the model is broken"):
            run_on(client, models.MakeModel(notes, fails=True), scene, tmp_path / "map.tif")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "scene.tif"]
        (others := tmp_path / "others").mkdir()
        run_on(client, models.MakeModel(others), scene, tmp_path / "other.tif")  # they live on


def test_cells_of_a_scene_are_the_same(models, scene, tmp_path):
    make, options = models.MakeCellModel(), {**OPTIONS, "block_windows": 40}
    one, many = (MapRequest(scene, tmp_path / f"{n}.tif", **options) for n in ("one", "many"))
    map_scene(make(None), one, num_classes=3, cell=16)
    with connect("local", 1) as client:
        blocks = on_cluster(client, make, "cells")
        map_scene(None, many, num_classes=3, cell=16, run_blocks=blocks)
    assert (tmp_path / "many.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()


def test_nobody_at_the_address():
    with pytest.raises(SceneError, match="no Dask scheduler answers"), connect("nowhere"):
        pass


def test_workers_without_numbers_take_those_of_their_machine(tmp_path, monkeypatch):
    names = iter(["3", 4, "tcp://10.0.0.1:1", "tcp://10.0.0.1:2", "tcp://10.0.0.2:1"])
    hosts = iter(["one", "one", "two"])
    monkeypatch.setattr(distributed, "get_worker", lambda: SimpleNamespace(name=next(names)))
    monkeypatch.setattr(cluster.socket, "gethostname", lambda: next(hosts))
    found = [cluster._number_of_worker(tmp_path) for _ in range(5)]
    assert found == [3, 4, 0, 1, 0]
