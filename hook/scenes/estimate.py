"""What a map will take, before it is made: windows, memory, disk and time."""

import math
import resource
import sys
import time
import zlib
from dataclasses import dataclass

import numpy as np
import rasterio

from hook.scenes.blending import RowBlock, rows_at_a_time
from hook.scenes.grid import Window
from hook.scenes.layers import BLOCK_SIZE, PartFile
from hook.scenes.mapping import MapPlan, Predict, cache_bytes, check_scores
from hook.scenes.pipeline import QUEUE_SIZE, Scene

# Windows looked at: evenly over the scene, so that sparse data and busy places both count.
_SAMPLES = 24
# Timed batches; the first of all only warms up.
_BATCHES = 3
# Overviews that are made of the sample; the further ones shrink as these do.
_OVERVIEWS = 2


@dataclass(frozen=True)
class Estimate:
    """What a map will take."""

    windows: int
    """Windows of the grid."""
    empty_windows: int
    """Windows without a valid pixel, estimated from a sample."""
    memory_bytes: int
    """Largest resident memory of the process."""
    disk_bytes: int
    """Size of the map and its scores, estimated from a sample; polygons come on top."""
    work_bytes: int
    """Disk that finished blocks take beside the map until it is complete, estimated."""
    seconds: float
    """Time on this machine as it is now, estimated from a few windows."""

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        disk, work = self.disk_bytes / 2**20, self.work_bytes / 2**20
        rows = (
            ("windows", f"{self.windows}, about {self.empty_windows} of them without data"),
            ("memory", f"{self.memory_bytes / 2**20:.0f} MiB"),
            ("disk", f"{disk:.1f} MiB, and {work:.1f} MiB until the map is complete"),
            ("time", f"{hours}:{minutes:02}:{seconds:02}"),
        )
        return "\n".join(f"{name:8} {value}" for name, value in rows)


def estimate(predict: Predict, scene: Scene, plan: MapPlan) -> Estimate:
    """Foretell what :func:`hook.scenes.map_scene` will take.

    A few windows go through the model. Time and disk are those of a sample of windows, evenly
    over the scene; memory is what the process holds after the model has run, and what the row of
    windows, the queues and GDAL's cache will add.

    Args:
        predict: See :func:`hook.scenes.map_scene`.
        scene: The scene.
        plan: How it is cut up.

    Raises:
        SceneError: The scene cannot be read, or the model's answer has another shape.
    """
    grid = plan.grid
    chosen = np.unique(np.linspace(0, len(grid) - 1, _SAMPLES).round().astype(int))
    with scene.open() as reader, rasterio.Env(GDAL_CACHEMAX=cache_bytes(reader, plan)):
        read = [(grid[index], reader.read(grid[index], grid.window)) for index in chosen.tolist()]
        full = [(window, data) for window, data in read if data.covered.any()]
        share_empty = 1 - len(full) / len(read)
        size = min(plan.batch_size, len(grid))
        seconds, stored = [], np.zeros((2, len(plan.layers)))
        pixels = 0
        for start in range(0, len(full), size):
            batch = full[start : start + size]
            filled = [data for _, data in batch] + [batch[-1][1]] * (size - len(batch))
            images = np.stack([data.image for data in filled])
            valid = np.stack([data.valid for data in filled])
            if not seconds:
                predict(images, valid)
            begun = time.perf_counter()
            scores = check_scores(predict(images, valid), size, plan)
            seconds.append(time.perf_counter() - begun)
            for (window, data), score in zip(batch, scores, strict=False):
                stored += _stored_bytes(plan, window, score, data.covered)
                pixels += data.covered.size
            if len(seconds) >= _BATCHES and pixels >= 4 * plan.window**2:
                break
        memory = _resident() + _added_bytes(plan, reader.dtype, len(reader.indexes))
        memory += cache_bytes(reader, plan)
    scale = plan.height * plan.width * (1 - share_empty) / pixels if pixels else 0
    maps, parts = (stored.sum(axis=1) * scale).tolist()
    empty = round(share_empty * len(grid))
    batches = -(-(len(grid) - empty) // size)
    return Estimate(
        windows=len(grid),
        empty_windows=empty,
        memory_bytes=int(memory),
        disk_bytes=int(maps),
        work_bytes=int(parts),
        seconds=batches * float(np.median(seconds)) if seconds else 0.0,
    )


def _stored_bytes(
    plan: MapPlan, window: Window, scores: np.ndarray, covered: np.ndarray
) -> np.ndarray:
    """Compress a window's values as the files will: bytes (map, part) x layers."""
    scores = scores[:, : window.height, : window.width]
    block = RowBlock(window.row_off, scores, covered)
    sizes = np.zeros((2, len(plan.layers)))
    for number, layer in enumerate(plan.layers):
        encoded = layer.encode(block)
        sizes[0, number] = _layer_bytes(np.moveaxis(encoded, 0, -1), _levels(plan))
        for band in encoded:
            for row in range(0, window.height, PartFile.STRIP_ROWS):
                strip = np.ascontiguousarray(band[row : row + PartFile.STRIP_ROWS])
                sizes[1, number] += len(zlib.compress(strip, 1))
    return sizes


def _layer_bytes(pixels: np.ndarray, levels: int) -> float:
    """Compress pixels (rows, columns, bands) and their overviews as a COG has them."""
    sizes = []
    for level in range(1 + min(levels, _OVERVIEWS)):
        smaller = pixels[:: 2**level, :: 2**level]
        starts = range(0, len(smaller), BLOCK_SIZE)
        tiles = (np.ascontiguousarray(smaller[row : row + BLOCK_SIZE]) for row in starts)
        sizes.append(sum(len(zlib.compress(tile, 6)) for tile in tiles))
    further = max(levels - _OVERVIEWS, 0)
    ratio = sizes[-1] / sizes[-2] if further else 0
    return sum(sizes) + sum(sizes[-1] * ratio**n for n in range(1, further + 1))


def _levels(plan: MapPlan) -> int:
    """Count the overviews: halves, until one fits a block."""
    return max(0, math.ceil(math.log2(max(plan.height, plan.width) / BLOCK_SIZE)))


def _added_bytes(plan: MapPlan, dtype: np.dtype, bands: int) -> int:
    """Bytes that a run holds beside the model's: accumulators, queues, and rows on their way."""
    window, width, k = plan.window, plan.width, plan.num_classes
    accumulators = min(window, plan.height) * width * (4 * k + 5)
    batch = plan.batch_size * window**2
    queues = (
        2 * QUEUE_SIZE * batch * (bands * dtype.itemsize + 2) + (QUEUE_SIZE + 1) * batch * 4 * k
    )
    rows = rows_at_a_time(width) * width
    # Of rows that leave: an argmax, scores clipped and scaled, the layers' values and buffers.
    leaving = rows * (8 + 1) + sum(
        rows * layer.count * (2 * np.dtype(layer.dtype).itemsize + (12 if layer.scale else 0))
        for layer in plan.layers
    )
    return accumulators + queues + leaving


def _resident() -> int:
    """Largest memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
