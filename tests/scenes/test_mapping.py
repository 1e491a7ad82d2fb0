import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from rasterio.features import geometry_mask
from rasterio.transform import from_bounds, from_origin
from rasterio.warp import transform_bounds, transform_geom
from rio_cogeo import cog_validate

from hook.errors import ConfigError, HookError, SceneError
from hook.scenes import MapRequest, WindowGrid, blending, map_scene, mapping, polygonize
from hook.scenes.blending import RowBlender
from hook.scenes.layers import ClassLayer, PartFile
from hook.scenes.reader import AreaOfInterest, SceneReader

rng = np.random.default_rng(0)
# What a run that hangs would otherwise take for ever.
PATIENCE_S = 30


def run(predict, input, output, *, num_classes, **options):
    """`map_scene` in a thread that may not hang; returns its report or raises its error."""
    outcome = []
    of_model = ("class_names", "palette", "cell", "fingerprint")
    known = {name: options.pop(name) for name in of_model if name in options}

    def target():
        try:
            request = MapRequest(input, output, progress=False, **options)
            outcome.append(map_scene(predict, request, num_classes=num_classes, **known))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert outcome, "the run hangs"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def constant(probabilities):
    probabilities = np.asarray(probabilities, np.float32)[None, :, None, None]

    def predict(windows, valid):
        assert windows.shape[-2:] == valid.shape[-2:] and len(windows) == len(valid)
        return np.tile(probabilities, (len(windows), 1, *windows.shape[-2:]))

    return predict


def read(path):
    with rasterio.open(path) as source:
        return source.read()


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (37, 91), (64, 64), (1, 130)])
@pytest.mark.parametrize("window, overlap", [(16, 0), (16, 0.25), (32, 31), (64, 0.5), (200, 0.25)])
@pytest.mark.parametrize("blend, block_windows", [("hann", 64), ("hann", 1), ("crop", 3)])
def test_constant_model_gives_the_constant(
    write_scene, tmp_path, size, window, overlap, blend, block_windows
):
    values = rng.integers(0, 3, (2, *size)).astype(np.uint8)  # 0 is nodata: holes everywhere
    values[:, -1, -1] = values[:, 0, 0] = 1
    path = write_scene(values, nodata=0)
    report = run(
        constant([0.124, 0.8, 0.076]),
        path,
        tmp_path / "map.tif",
        num_classes=3,
        window=window,
        overlap=overlap,
        blend=blend,
        block_windows=block_windows,
        scores=("probs",),
        scores_path=tmp_path / "p.tif",
    )
    covered = (values != 0).any(axis=0)
    np.testing.assert_array_equal(read(tmp_path / "map.tif")[0], np.where(covered, 1, 255))
    for band, step in zip(read(tmp_path / "p.tif"), (31, 200, 19), strict=True):
        np.testing.assert_array_equal(band, np.where(covered, step, 255))
    assert report.pixels == covered.sum() and report.class_pixels == (0, covered.sum(), 0)
    assert report.windows == len(WindowGrid(*size, window, overlap))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("window, overlap", [(32, 0), (48, 0.25), (32, 0.9), (300, 0.5)])
@pytest.mark.parametrize("blend", ["hann", "crop"])
@pytest.mark.parametrize("block_windows", [1, 9, 64])
def test_pixelwise_model_equals_numpy_on_the_whole_scene(
    write_scene, softmax_of_bands, tmp_path, dtype, window, overlap, blend, block_windows
):
    values = rng.normal(8, 4, (3, 131, 97)).clip(1).astype(dtype)
    nodata = np.nan if dtype == "float32" else 0
    values[:, :60, :50] = nodata
    values[1, 100:, :] = nodata
    path = write_scene(values, nodata=nodata)
    run(
        softmax_of_bands,
        path,
        tmp_path / "map.tif",
        num_classes=3,
        window=window,
        overlap=overlap,
        blend=blend,
        block_windows=block_windows,
    )
    band_valid = ~np.isnan(values) if dtype == "float32" else values != 0
    scores = softmax_of_bands(values[None], band_valid.all(axis=0)[None])[0]
    expected = np.where(band_valid.any(axis=0), scores.argmax(axis=0), 255)
    np.testing.assert_array_equal(read(tmp_path / "map.tif")[0], expected)


def test_bytes_do_not_depend_on_the_batch_size(write_scene, softmax_of_bands, tmp_path):
    values = rng.random((3, 150, 130), np.float32)
    values[:, :70] = np.nan
    path = write_scene(values)
    contents = []
    for batch_size in (1, 2, 3, 100):
        names = [tmp_path / f"{kind}{batch_size}.tif" for kind in "mp"]
        run(
            softmax_of_bands,
            path,
            names[0],
            num_classes=3,
            window=32,
            batch_size=batch_size,
            scores=("probs",),
            scores_path=names[1],
        )
        contents.append([name.read_bytes() for name in names])
    assert all(content == contents[0] for content in contents)


def test_bytes_do_not_depend_on_the_rows_that_leave_together(
    write_scene, softmax_of_bands, tmp_path, monkeypatch
):
    path = write_scene(rng.integers(0, 255, (3, 150, 90)).astype(np.uint8), nodata=0)
    options = dict(num_classes=3, window=32, overlap=0.4, scores=("probs",), block_windows=8)
    run(softmax_of_bands, path, tmp_path / "a.tif", **options)
    monkeypatch.setattr(blending, "_PIXELS", 700)
    assert blending.rows_at_a_time(90) == 7 and blending.rows_at_a_time(10_000) == 1
    run(softmax_of_bands, path, tmp_path / "b.tif", **options)
    for name in (".tif", ".scores.tif"):
        assert (tmp_path / f"a{name}").read_bytes() == (tmp_path / f"b{name}").read_bytes()


def test_model_sees_native_values_batches_and_bands_in_order(write_scene, tmp_path):
    values = rng.integers(-999, 999, (3, 64, 96)).astype(np.int16)
    values[0, 0, 0] = values[:, 0, 1] = -9999
    seen = []

    def predict(windows, valid):
        seen.append((windows.copy(), valid.copy()))
        return np.ones((len(windows), 1, 32, 32), np.float32)

    path = write_scene(values, nodata=-9999)
    options = {"num_classes": 1, "window": 32, "overlap": 0, "batch_size": 4}
    run(predict, path, tmp_path / "map.tif", bidx=[3, 1], **options)
    # A batch that lacks windows repeats its last one: the model is always asked about as many.
    assert [len(windows) for windows, _ in seen] == [4, 4]
    assert all(np.array_equal(seen[1][0][1], seen[1][0][i]) for i in (2, 3))
    seen[1] = tuple(array[:2] for array in seen[1])
    windows = np.concatenate([windows for windows, _ in seen])
    assert windows.dtype == np.int16
    expected = (
        values[[2, 0]].reshape(2, 2, 32, 3, 32).transpose(1, 3, 0, 2, 4).reshape(6, 2, 32, 32)
    )
    np.testing.assert_array_equal(windows, expected)
    valid = np.concatenate([valid for _, valid in seen])
    assert not valid[0, 0, :2].any() and valid.sum() == valid.size - 2
    assert read(tmp_path / "map.tif")[0, 0, :3].tolist() == [0, 255, 0]


def test_windows_without_data_are_skipped(write_scene, tmp_path):
    values = np.zeros((1, 640, 640), np.uint8)
    values[0, 300:340, 300:340] = 1
    calls = []

    def predict(windows, valid):
        calls.append(len(windows))
        assert valid.any(axis=(1, 2)).all()
        return np.ones((len(windows), 1, 16, 16), np.float32)

    path = write_scene(values, nodata=0)
    report = run(predict, path, tmp_path / "map.tif", num_classes=1, window=16, overlap=0)
    # 64 windows are a block: the 16 with data lie in two.
    assert report.windows == 1600 and report.empty_windows == 1600 - 16
    assert sum(calls) == 16
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), np.where(values, 0, 255))


def test_scene_without_any_data(write_scene, tmp_path):
    def predict(windows, valid):
        raise AssertionError("there is nothing to predict")

    path = write_scene(np.zeros((2, 40, 40), np.uint8), nodata=0)
    report = run(predict, path, tmp_path / "map.tif", num_classes=2, window=16)
    assert report.pixels == 0 and (read(tmp_path / "map.tif") == 255).all()


def test_names_colours_and_place_arrive(write_scene, softmax_of_bands, tmp_path):
    path = write_scene(rng.random((2, 600, 530), np.float32))
    run(
        softmax_of_bands,
        path,
        tmp_path / "map.tif",
        num_classes=2,
        class_names=["field", "road"],
        palette=[[1, 2, 3], [4, 5, 6]],
        out_nodata=99,
        window=256,
    )
    assert cog_validate(tmp_path / "map.tif", strict=True, quiet=True)[0]
    with rasterio.open(tmp_path / "map.tif") as source, rasterio.open(path) as scene:
        assert (source.crs, source.transform, source.shape) == (
            scene.crs,
            scene.transform,
            scene.shape,
        )
        assert source.colormap(1)[1] == (4, 5, 6, 255) and source.nodata == 99
    assert "road" in (tmp_path / "map.tif.aux.xml").read_text()
    assert "road" in (tmp_path / "map.qml").read_text()


@pytest.mark.parametrize(
    "options",
    [
        {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-5, 0, 85.5, 0, -2e-5, 27.6)},
        {"transform": rasterio.Affine(0.4, 0.1, 3e5, 0.1, -0.5, 3e6)},
        {"crs": None, "transform": None},
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.filterwarnings("ignore:.*not georeferenced")
def test_any_georeference_is_kept(write_scene, tmp_path, options):
    path = write_scene(np.ones((1, 20, 30), np.uint8), **options)
    run(constant([1]), path, tmp_path / "map.tif", num_classes=1, window=16)
    with rasterio.open(tmp_path / "map.tif") as target, rasterio.open(path) as scene:
        assert target.crs == scene.crs and target.transform.almost_equals(scene.transform)


class Injected(Exception):
    pass


def fail_after(calls, function):
    """A function that works so many times and then raises."""
    count = iter(range(calls))

    def wrapped(*arguments, **keywords):
        if next(count, None) is None:
            raise Injected
        return function(*arguments, **keywords)

    return wrapped


@pytest.mark.parametrize("calls", [0, 1, 7])
@pytest.mark.parametrize("place", ["reader", "model", "blender", "writer", "part", "cog"])
def test_a_failure_anywhere_ends_the_run_and_leaves_no_map(
    write_scene, softmax_of_bands, tmp_path, monkeypatch, place, calls
):
    """And what was finished is there for the next run, which gives the same bytes."""
    path = write_scene(rng.random((3, 300, 100), np.float32))
    out = tmp_path / "out"
    out.mkdir()
    options = {
        "num_classes": 3,
        "window": 32,
        "batch_size": 2,
        "block_windows": 8,
        "scores": ("probs", "entropy"),
    }
    run(softmax_of_bands, path, tmp_path / "map.tif", **options)
    predict = softmax_of_bands
    with monkeypatch.context() as patch:
        if place == "model":
            predict = fail_after(calls, predict)
        else:
            owner, name = {
                "reader": (SceneReader, "read"),
                "blender": (RowBlender, "add"),
                "writer": (ClassLayer, "encode"),
                "part": (PartFile, "finish"),
                "cog": (mapping, "write_cog"),
            }[place]
            calls = min(calls, 1) if place == "cog" else calls
            patch.setattr(owner, name, fail_after(calls, getattr(owner, name)))
        with pytest.raises(Injected):
            run(predict, path, out / "map.tif", **options)
    left = [p.name for p in out.iterdir()]
    assert left in ([], [".map.tif.unfinished"])
    assert not [t for t in threading.enumerate() if t.name.startswith(("read_", "write_"))]
    if left:
        with pytest.raises(SceneError, match="an interrupted run left part"):
            run(softmax_of_bands, path, out / "map.tif", **options)
    report = run(softmax_of_bands, path, out / "map.tif", resume=True, **options)
    assert (report.resumed_windows > 0) == bool(left)
    names = ("map.tif", "map.scores.tif", "map.tif.aux.xml", "map.qml", "map.json")
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes()
    assert len(list(out.iterdir())) == len(names)


KILLED = """
import os, signal, sys
import numpy as np
from hook.scenes import MapRequest, map_scene

count = iter(range(int(sys.argv[3])))

def predict(windows, valid):
    if next(count, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    values = np.exp(windows.astype(np.float32) / 255)
    return values / values.sum(axis=1, keepdims=True)

request = MapRequest(sys.argv[1], sys.argv[2], window=32, batch_size=2, block_windows=8,
                     scores=("margin",), resume=True, progress=False)
map_scene(predict, request, num_classes=3)
"""


def test_a_killed_run_goes_on_with_the_same_bytes(write_scene, tmp_path):
    path = write_scene(rng.integers(0, 255, (3, 300, 100)).astype(np.uint8))

    def start(output, batches):
        command = [sys.executable, "-c", KILLED, str(path), str(output), str(batches)]
        return subprocess.run(command, timeout=120).returncode

    assert start(tmp_path / "whole.tif", 10**6) == 0
    output = tmp_path / "killed.tif"
    for batches in (5, 9, 10):  # of 26, in blocks of four
        assert start(output, batches) == -signal.SIGKILL
        assert not output.exists()
    assert start(output, 10**6) == 0
    assert output.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    scores = [tmp_path / f"{name}.scores.tif" for name in ("whole", "killed")]
    assert scores[0].read_bytes() == scores[1].read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_run_that_ended_in_what_follows_from_the_map_goes_on(
    write_scene, softmax_of_bands, tmp_path, monkeypatch
):
    path = write_scene(rng.integers(0, 255, (3, 300, 100)).astype(np.uint8))
    options = dict(num_classes=3, window=32, batch_size=2, block_windows=8)
    followed = []

    def interrupted(*arguments, **options):
        assert (tmp_path / "map.tif").exists()
        raise KeyboardInterrupt

    def follow(*arguments, **options):
        followed.append(1)
        return polygonize(*arguments, **options)

    run(softmax_of_bands, path, tmp_path / "whole.tif", **options)
    options |= dict(vectors=tmp_path / "map.gpkg")
    monkeypatch.setattr(mapping, "polygonize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(softmax_of_bands, path, tmp_path / "map.tif", **options)
    monkeypatch.setattr(mapping, "polygonize", follow)
    report = run(softmax_of_bands, path, tmp_path / "map.tif", resume=True, **options)
    assert report.resumed_windows == report.windows and followed == [1]
    assert (tmp_path / "map.gpkg").exists()
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


KILLED_AT_THE_END = """
import os, signal, sys
from pathlib import Path
import numpy as np
from hook.scenes import MapRequest, map_scene

def softmax(windows, valid):
    values = np.exp(windows.astype(np.float32) / 255)
    return values / values.sum(axis=1, keepdims=True)

def run(folder, kill=None):
    # In a child: a fork after GDAL has started threads would hang.
    if (child := os.fork()) == 0:
        for call in ("replace", "setxattr", "rmdir"):
            setattr(os, call, killing(getattr(os, call), kill))
        output = folder / "map.tif"
        report = map_scene(softmax, MapRequest(
            sys.argv[1], output, window=32, scores=("margin",), vectors=folder / "map.gpkg",
            resume=True, progress=False), num_classes=3)
        os._exit(11 if report.finished_before else 10)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def killing(function, kill):
    def call(*paths, **options):
        hidden = any("/." in str(path) for path in paths[1:2])
        if not hidden or function.__name__ == "rmdir":
            calls.append(function.__name__)
            if len(calls) == kill:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*paths, **options)
    return call

def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}

calls, kill, ends, root = [], 0, set(), Path(sys.argv[2])
(root / "whole").mkdir()
assert run(root / "whole") == 10
while True:
    kill += 1
    (folder := root / str(kill)).mkdir()
    if run(folder, kill) == 10:
        break
    ends.add(run(folder))
    assert ends <= {10, 11} and files(folder) == files(root / "whole"), (kill, ends)
    assert run(folder) == 11  # and a finished one is left as it is
    assert files(folder) == files(root / "whole")
print(kill, sorted(ends))
"""


def test_killed_between_two_renames_all_files_are_completed(write_scene, tmp_path):
    path = write_scene(rng.integers(0, 255, (3, 40, 50)).astype(np.uint8))
    (folder := tmp_path / "maps").mkdir()
    command = [sys.executable, "-W", "ignore", "-c", KILLED_AT_THE_END, str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    kills, ends = done.stdout.split(maxsplit=1)
    assert int(kills) > 9 and ends.strip() == "[10, 11]"


def test_a_finished_run_of_other_options_or_files_is_refused(
    write_scene, softmax_of_bands, tmp_path
):
    path = write_scene(rng.integers(0, 255, (3, 60, 50)).astype(np.uint8))
    output, vectors = tmp_path / "map.tif", tmp_path / "areas.gpkg"
    options = dict(num_classes=3, window=32, fingerprint={"weights": "a"})
    first = run(softmax_of_bands, path, output, resume=True, **options)
    again = run(None, path, output, resume=True, **options)
    assert again.finished_before and not first.finished_before
    assert (again.windows, again.class_pixels) == (first.windows, first.class_pixels)
    assert "finished already" in str(again) and "finished" not in str(first)
    with pytest.raises(SceneError, match="exists already"):
        run(None, path, output, **options)
    vectors.write_text("of the user")
    for changed, found in (
        ({"fingerprint": {"weights": "b"}}, 'model weights ("a", now "b")'),
        ({"overlap": 0.5}, "overlap (0.25, now 0.5)"),
        ({"scores": ("margin",)}, "layers"),
        ({"vectors": vectors}, "vectors (null"),
        ({"datetime": "2024-05-31"}, "datetime (null"),
    ):
        with pytest.raises(SceneError, match="exists already") as caught:
            run(None, path, output, resume=True, **{**options, **changed})
        assert found in str(caught.value)
    with rasterio.open(path, "r+") as file:
        file.write(255 - file.read())
    with pytest.raises(SceneError, match=r"what differs: input"):
        run(None, path, output, resume=True, **options)
    assert vectors.read_text() == "of the user"
    report = run(softmax_of_bands, path, output, resume=True, overwrite=True, **options)
    assert not report.finished_before


@pytest.mark.parametrize("name", ["map.gpkg", "map.scores.tif"])
def test_a_first_run_with_resume_replaces_nothing(write_scene, softmax_of_bands, tmp_path, name):
    path = write_scene(rng.integers(0, 255, (3, 40, 50)).astype(np.uint8))
    (tmp_path / name).write_text("of the user")
    options = dict(vectors=tmp_path / "map.gpkg", scores=("margin",), resume=True)
    with pytest.raises((ConfigError, SceneError), match="exists already"):
        run(softmax_of_bands, path, tmp_path / "map.tif", num_classes=3, window=32, **options)
    assert (tmp_path / name).read_text() == "of the user" and not (tmp_path / "map.tif").exists()


def test_a_map_of_a_long_name_has_all_its_files(write_scene, softmax_of_bands, tmp_path):
    path = write_scene(rng.integers(0, 255, (3, 600, 50)).astype(np.uint8))
    output, vectors = (
        tmp_path / (letter * 237 + end)
        for letter, end in zip("mv", (".tif", ".parquet"), strict=True)
    )
    run(
        softmax_of_bands, path, output, num_classes=3, window=64, scores=("probs",), vectors=vectors
    )
    ends = (".tif", ".tif.aux.xml", ".scores.tif", ".qml", ".json")
    expected = {"m" * 237 + end for end in ends} | {vectors.name, "scene.tif"}
    assert {one.name for one in tmp_path.iterdir()} - {f"{'v' * 237}.qml"} == expected
    missing = tmp_path / ("v" * 250 + ".parquet")
    with pytest.raises(ConfigError, match="File name too long"):
        run(None, path, tmp_path / "map.tif", num_classes=3, window=64, vectors=missing)


def test_a_changed_source_of_a_vrt_is_noticed(write_scene, softmax_of_bands, tmp_path):
    source = write_scene(rng.integers(0, 255, (3, 300, 100)).astype(np.uint8), name="source.tif")
    for inner, outer in ((source, "inner.vrt"), (tmp_path / "inner.vrt", "outer.vrt")):
        rasterio.shutil.copy(str(inner), str(tmp_path / outer), driver="VRT")
    options = dict(num_classes=3, window=32, batch_size=2, block_windows=8)
    count = iter(range(8))

    def interrupted(windows, valid):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return softmax_of_bands(windows, valid)

    with pytest.raises(KeyboardInterrupt):
        run(interrupted, tmp_path / "outer.vrt", tmp_path / "map.tif", **options)
    with rasterio.open(source, "r+") as file:
        file.write(255 - file.read())
    with pytest.raises(SceneError, match="what differs: input"):
        run(softmax_of_bands, tmp_path / "outer.vrt", tmp_path / "map.tif", resume=True, **options)


def test_a_run_of_another_map_is_not_gone_on_with(write_scene, softmax_of_bands, tmp_path):
    path = write_scene(rng.random((3, 300, 100), np.float32))
    output = tmp_path / "map.tif"
    options = {"num_classes": 3, "window": 32, "batch_size": 2, "block_windows": 8}

    def fails(**changed):
        with pytest.raises(Injected):
            run(fail_after(9, softmax_of_bands), path, output, **{**options, **changed})

    fails(fingerprint={"weights": "a"})
    for changed, found in (
        ({"fingerprint": {"weights": "b"}}, "what differs: model"),
        ({"fingerprint": {"weights": "a"}, "overlap": 0}, "what differs: overlap"),
        ({"fingerprint": {"weights": "a"}, "class_names": list("xyz")}, "what differs: layers"),
    ):
        with pytest.raises(SceneError, match=found):
            run(softmax_of_bands, path, output, resume=True, **{**options, **changed})
    os.utime(path, (1, 1))
    with pytest.raises(SceneError, match="what differs: input"):
        run(softmax_of_bands, path, output, resume=True, fingerprint={"weights": "a"}, **options)
    report = run(softmax_of_bands, path, output, overwrite=True, **options)
    assert report.resumed_windows == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "map.json",
        "map.qml",
        "map.tif",
        "map.tif.aux.xml",
        "scene.tif",
    ]


def test_several_files_are_one_scene(write_scene, softmax_of_bands, tmp_path):
    values = rng.integers(1, 255, (3, 120, 150)).astype(np.uint8)
    whole = write_scene(values, "whole.tif")
    parts = []
    for name, rows, columns in (
        ("a", slice(0, 70), slice(0, 80)),
        ("b", slice(0, 70), slice(80, 150)),
        ("c", slice(60, 120), slice(0, 150)),
    ):
        place = from_origin(300000 + columns.start / 2, 3000000 - rows.start / 2, 0.5, 0.5)
        parts.append(write_scene(values[:, rows, columns], f"{name}.tif", transform=place))
    options = {"num_classes": 3, "window": 32, "batch_size": 2}
    run(softmax_of_bands, whole, tmp_path / "one.tif", **options)
    # The second lies in front where it overlaps, but the pixels are the same.
    run(softmax_of_bands, parts[::-1], tmp_path / "many.tif", **options)
    np.testing.assert_array_equal(read(tmp_path / "many.tif"), read(tmp_path / "one.tif"))
    run(softmax_of_bands, parts[:2], tmp_path / "two.tif", **options)
    with rasterio.open(tmp_path / "two.tif") as source:
        assert source.shape == (70, 150)
    run(softmax_of_bands, parts[1:], tmp_path / "hole.tif", **options)
    hole = read(tmp_path / "hole.tif")[0]
    assert hole.shape == (120, 150)
    assert (hole[:60, :80] == 255).all() and (hole[60:] != 255).all()


def test_a_file_in_another_crs_is_brought_to_the_first_ones_grid(write_scene, tmp_path):
    path = write_scene(np.full((1, 40, 40), 9, np.uint8))
    with rasterio.open(path) as source:
        bounds = transform_bounds(source.crs, "EPSG:4326", *source.bounds)
    east = from_bounds(bounds[0] + 1e-4, bounds[1], bounds[2] + 1e-4, bounds[3], 60, 50)
    other = write_scene(
        np.full((1, 50, 60), 7, np.uint8), "other.tif", crs="EPSG:4326", transform=east
    )
    seen = []

    def predict(windows, valid):
        seen.append(set(np.unique(windows[valid[:, None]])))
        return np.ones((len(windows), 1, 16, 16), np.float32)

    run(predict, [path, other], tmp_path / "map.tif", num_classes=1, window=16, overlap=0)
    assert set.union(*seen) == {7, 9}
    with rasterio.open(tmp_path / "map.tif") as result, rasterio.open(path) as source:
        assert result.crs == source.crs and result.width > 40
        left, top = ~result.transform @ (source.bounds.left, source.bounds.top)
        top, left = round(top), round(left)
        assert (result.read(1)[top : top + 40, left : left + 40] == 0).all()


def test_only_the_area_of_interest_is_mapped(write_scene, softmax_of_bands, tmp_path):
    path = write_scene(rng.random((3, 120, 150), np.float32))
    whole = tmp_path / "whole.tif"
    options = {"num_classes": 3, "window": 32, "batch_size": 2}
    run(softmax_of_bands, path, whole, **options)
    triangle = shapely.Polygon([(300010, 2999990), (300050, 2999985), (300030, 2999950)])
    calls = []

    def predict(windows, valid):
        calls.append(len(windows))
        return softmax_of_bands(windows, valid)

    with rasterio.open(path) as source:
        inside = geometry_mask([triangle], source.shape, source.transform, invert=True)
        crs = source.crs
    in_degrees = shapely.geometry.shape(transform_geom(crs, "EPSG:4326", triangle))
    for name, area in (
        ("own", AreaOfInterest((triangle,))),
        ("degrees", AreaOfInterest((in_degrees,), rasterio.CRS.from_epsg(4326))),
    ):
        run(predict, path, tmp_path / f"{name}.tif", aoi=area, **options)
        with rasterio.open(tmp_path / f"{name}.tif") as result:
            top, left = 20, 20
            assert result.shape == (80, 80)
            expected = np.where(inside, read(whole)[0], 255)[top : top + 80, left : left + 80]
            found = result.read(1)
        assert (found != expected).sum() <= (0 if name == "own" else 8)
    far = AreaOfInterest((shapely.box(0, 0, 1, 1),))
    with pytest.raises(SceneError, match="outside the scene"):
        run(predict, path, tmp_path / "far.tif", aoi=far, **options)


def test_truncated_scene_leaves_nothing(write_scene, softmax_of_bands, tmp_path):
    path = write_scene(
        rng.random((3, 256, 256), np.float32), tiled=True, blockxsize=64, blockysize=64
    )
    path.write_bytes(path.read_bytes()[:300_000])
    with pytest.raises(SceneError, match=r"scene\.tif: cannot be read at row"):
        run(softmax_of_bands, path, tmp_path / "map.tif", num_classes=3, window=32)
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: np.ones((n, 4, 32, 32), np.float32),
        lambda n: np.ones((n, 3, 16, 16), np.float32),
        lambda n: np.ones((n + 1, 3, 32, 32), np.float32),
        lambda n: np.full((n, 3, 32, 32), np.nan, np.float32),
        lambda n: None,
    ],
)
def test_wrong_answers_of_the_model_are_refused(write_scene, tmp_path, answer):
    path = write_scene(np.ones((1, 100, 100), np.uint8))
    with pytest.raises(SceneError, match="model"):
        run(lambda w, v: answer(len(w)), path, tmp_path / "map.tif", num_classes=3, window=32)
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


def test_a_model_may_reuse_its_buffers(write_scene, softmax_of_bands, tmp_path):
    path = write_scene(rng.random((3, 128, 128), np.float32))
    buffer = np.empty((1, 3, 16, 16), np.float32)

    def predict(windows, valid):
        buffer[:] = softmax_of_bands(windows, valid)
        windows[:] = 0
        return buffer

    for name, model in (("a.tif", softmax_of_bands), ("b.tif", predict)):
        run(model, path, tmp_path / name, num_classes=3, window=16, batch_size=1)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))


def test_outputs_are_overwritten_on_request_only(write_scene, tmp_path):
    path = write_scene(np.ones((1, 20, 20), np.uint8))
    output = tmp_path / "map.tif"
    run(constant([1, 0]), path, output, num_classes=2, window=16)
    before = output.read_bytes()
    with pytest.raises(SceneError, match=r"exists already"):
        run(constant([0, 1]), path, output, num_classes=2, window=16)
    assert output.read_bytes() == before
    run(constant([0, 1]), path, output, num_classes=2, window=16, overwrite=True)
    assert (read(output) == 1).all()
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"scene.tif", "map.tif", "map.tif.aux.xml", "map.qml", "map.json"}


def test_what_a_user_laid_beside_a_map_is_kept(write_scene, tmp_path):
    path = write_scene(np.ones((1, 20, 20), np.uint8))
    output, options = tmp_path / "map.tif", dict(num_classes=2, window=16, overwrite=True)
    run(constant([1, 0]), path, output, **options, vectors=tmp_path / "map.gpkg")
    item = json.loads(output.with_suffix(".json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(constant([1, 0]), path, output, **options)  # what HOOK wrote is replaced
    assert json.loads(output.with_suffix(".json").read_text()) != item
    style = output.with_suffix(".qml").read_text()
    theirs = {
        "map.qml": [style.replace("class_0", "field"), "<qgis/>"],
        "map.json": ['{"notes": 1}', json.dumps({**item, "links": [{"href": "x"}]}), "[]", "x"],
    }
    for name, contents in theirs.items():
        before = (tmp_path / name).read_bytes()
        for content in contents:
            (tmp_path / name).write_text(content)
            with pytest.warns(UserWarning, match=f"{name}: kept"):
                run(constant([0, 1]), path, output, **options, vectors=tmp_path / "map.gpkg")
            assert (read(output) == 1).all() and "map.tif.aux.xml" in os.listdir(tmp_path)
            found = (tmp_path / name).read_text()
            assert found == content or json.loads(found)["links"] == [{"href": "x"}]
        (tmp_path / name).write_bytes(before)
    side = tmp_path / "map.tif.aux.xml"
    side.write_text("<PAMDataset><SRS>EPSG:4326</SRS></PAMDataset>")
    with pytest.warns(UserWarning, match=r"kept as map\.tif\.aux\.xml\.bak"):
        run(constant([0, 1]), path, output, **options)
    with rasterio.open(output) as source, rasterio.open(path) as scene:
        assert source.crs == scene.crs
    assert "4326" in (tmp_path / "map.tif.aux.xml.bak").read_text()


@pytest.mark.parametrize("which", ["output", "scores_path", "vectors"])
@pytest.mark.parametrize("of", ["scene", "area", "model"])
def test_nothing_that_is_read_is_overwritten(write_scene, tmp_path, which, of):
    scene = write_scene(np.ones((1, 20, 20), np.uint8))
    with rasterio.open(scene) as source:
        bounds, crs = source.bounds, source.crs
    end = ".gpkg" if which == "vectors" else ".tif"
    inputs = {"scene": scene, "area": tmp_path / "area", "model": tmp_path / "model"}
    inputs = {name: path.rename(f"{path}{end}") if path.exists() else Path(f"{path}{end}")
              for name, path in inputs.items()}  # fmt: skip
    area = geopandas.GeoDataFrame(geometry=[shapely.box(*bounds)], crs=crs)
    area.to_file(inputs["area"], driver="GPKG")
    inputs["model"].write_text("model")
    rasterio.shutil.copy(inputs["scene"], tmp_path / "a.vrt", driver="VRT")
    rasterio.shutil.copy(tmp_path / "a.vrt", tmp_path / "b.vrt", driver="VRT")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    options = dict(output=tmp_path / "map.tif", scores="probs", aoi=inputs["area"])
    options |= dict(protect=(inputs["model"],), **{which: inputs[of]})
    with pytest.raises(HookError, match="is an input|other than the area"):
        run(constant([1]), tmp_path / "b.vrt", num_classes=1, overwrite=True, **options)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_impossible_options_are_refused(write_scene, tmp_path):
    path = write_scene(np.ones((1, 20, 20), np.uint8))
    output = tmp_path / "map.tif"
    for options, message in (
        ({"output": path, "overwrite": True}, "is an input"),
        ({"output": tmp_path / "map.png"}, "GeoTIFF"),
        ({"output": tmp_path / "absent" / "map.tif"}, "folder"),
        ({"scores": ["probs"], "scores_path": output}, "named twice"),
        ({"scores": ["sure"]}, "scores"),
        ({"batch_size": 0}, "batch_size"),
        ({"class_names": ["one"]}, "class_names"),
        ({"out_nodata": 1}, "out_nodata"),
        ({"bidx": [2]}, "bands"),
        ({"blend": "cut"}, "blend"),
        ({"block_windows": 0}, "block_windows"),
        ({"input": []}, "input"),
        ({"window": 0}, "window"),
        ({"num_classes": 0}, "num_classes"),
        ({"input": tmp_path / "absent.tif"}, "absent"),
    ):
        arguments = {"input": path, "output": output, "num_classes": 2, **options}
        with pytest.raises(HookError, match=message):
            run(constant([1, 0]), arguments.pop("input"), arguments.pop("output"), **arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


def test_memory_does_not_grow_with_the_height(write_scene, tmp_path):
    peaks = []
    # Small batches: how many are under way depends on the threads' pace.
    options = {"num_classes": 8, "window": 64, "batch_size": 1}
    for height in (512, 512, 8192):  # the first pays for imports and caches
        path = write_scene(np.ones((1, height, 1024), np.uint8), f"{height}.tif", tiled=True)
        tracemalloc.start()
        run(constant([0.5] * 8), path, tmp_path / "map.tif", overwrite=True, **options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]


@pytest.mark.parametrize("window, cell", [(16, 16), (24, 8), (7, 4), (200, 50)])
def test_a_class_per_window_is_a_class_per_cell(write_scene, tmp_path, window, cell):
    values = rng.integers(1, 255, (2, 90, 131)).astype(np.uint8)
    values[:, :20, :40] = 0
    path = write_scene(values, nodata=0)

    def predict(windows, valid):
        mean = windows.astype(np.float32).mean(axis=(2, 3)) / 255
        scores = np.stack([mean[:, 0], mean[:, 1], np.full(len(mean), 0.5)], axis=1)
        return scores / scores.sum(axis=1, keepdims=True)

    report = run(predict, path, tmp_path / "map.tif", num_classes=3, window=window, cell=cell)
    margin = (window - cell) // 2
    wide = np.pad(values, ((0, 0), (window, window), (window, window)), mode="symmetric")
    rows, columns = -(-90 // cell), -(-131 // cell)
    expected = np.full((rows, columns), 255)
    for row, column in np.ndindex(rows, columns):
        if (values[:, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]).any():
            top, left = row * cell - margin + window, column * cell - margin + window
            around = wide[:, top : top + window, left : left + window]
            expected[row, column] = predict(around[None], None)[0].argmax()
    with rasterio.open(tmp_path / "map.tif") as source, rasterio.open(path) as scene:
        np.testing.assert_array_equal(source.read(1), expected)
        assert source.transform.almost_equals(scene.transform @ rasterio.Affine.scale(cell))
        assert source.colormap(1)[255][3] == 0
    assert report.pixels == (expected != 255).sum()
    with pytest.raises(SceneError, match="cells"):
        run(predict, path, tmp_path / "no.tif", num_classes=3, window=8, cell=9)


def test_report_and_silent_stdout(write_scene, tmp_path, capsys):
    path = write_scene(np.ones((1, 20, 20), np.uint8))
    request = MapRequest(path, tmp_path / "map.tif", progress=True)
    report = map_scene(constant([1]), request, num_classes=1)
    assert report.seconds > 0 and capsys.readouterr().out == ""
