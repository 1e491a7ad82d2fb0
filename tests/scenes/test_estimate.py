"""What a map will take, against what it took."""

import json
import subprocess
import sys

import numpy as np
import pytest

from hook.scenes import MapRequest, map_scene
from hook.scenes.estimate import Estimate, estimate
from hook.scenes.mapping import plan_map

# Runs a map or its estimate in a process of its own, whose memory is then its own.
PROCESS = """
import json, resource, sys
import numpy as np
from hook.scenes import MapRequest, map_scene
from hook.scenes.estimate import estimate
from hook.scenes.mapping import plan_map

def predict(windows, valid):
    values = np.exp(windows.astype(np.float32) / 64)
    return values / values.sum(axis=1, keepdims=True)

def predict_two(windows, valid):
    first = 1 / (1 + np.exp(windows[:, :1].astype(np.float32) / 32 - 4))
    return np.concatenate([first, 1 - first], axis=1)

input, output, kind, classes = sys.argv[1:]
predict = predict_two if classes == "2" else predict
request = MapRequest(input, output, window=256, scores=("probs",), progress=False)
if kind == "estimate":
    found = estimate(predict, *plan_map(request, num_classes=int(classes)))
    print(json.dumps([found.memory_bytes, found.disk_bytes]))
else:
    map_scene(predict, request, num_classes=int(classes))
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""


def in_a_process(*arguments):
    command = [sys.executable, "-c", PROCESS, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


# The bands of two classes say the same: together they compress as one.
@pytest.mark.parametrize("classes", [2, 3])
def test_memory_and_disk_are_foretold(write_scene, tmp_path, classes):
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 200, (3, 24, 64)).repeat(64, axis=1).repeat(64, axis=2)
    values = (smooth + rng.integers(0, 30, smooth.shape)).astype(np.uint8)  # 1536 x 4096
    path = write_scene(values, tiled=True, compress="deflate")
    memory, disk = in_a_process(path, tmp_path / "map.tif", "estimate", classes)
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]
    peak = in_a_process(path, tmp_path / "map.tif", "map", classes)
    assert memory == pytest.approx(peak, rel=0.2)
    written = sum((tmp_path / name).stat().st_size for name in ("map.tif", "map.scores.tif"))
    assert disk == pytest.approx(written, rel=0.2)


def test_windows_without_data_are_counted(write_scene, tmp_path, softmax_of_bands):
    values = np.ones((2, 256, 64), np.uint8)
    values[:, 128:] = 0
    path = write_scene(values, nodata=0)
    request = MapRequest(path, tmp_path / "map.tif", window=16, overlap=0, progress=False)
    found = estimate(softmax_of_bands, *plan_map(request, num_classes=2))
    report = map_scene(softmax_of_bands, request, num_classes=2)
    assert found.windows == report.windows == 64
    assert found.empty_windows == pytest.approx(report.empty_windows, abs=2)
    assert found.seconds > 0
    values[:] = 0
    write_scene(values, nodata=0)
    empty = estimate(softmax_of_bands, *plan_map(request, num_classes=2))
    assert (empty.seconds, empty.disk_bytes, empty.empty_windows) == (0, 0, 64)


def test_it_reads_well():
    text = str(Estimate(1200, 300, 3 << 30, 5 << 20, 1 << 20, 3725.4))
    assert text.splitlines() == [
        "windows  1200, about 300 of them without data",
        "memory   3072 MiB",
        "disk     5.0 MiB, and 1.0 MiB until the map is complete",
        "time     1:02:05",
    ]
    text = str(Estimate(6, 0, 3 << 30, 38_147, 0, 1.4, "file"))  # codes of a small scene
    assert "disk     37 KiB, and 0 KiB until the file is complete" in text.splitlines()
