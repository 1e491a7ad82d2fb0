"""A scene of any size through a model, into a map."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from tqdm import tqdm

from hook.errors import SceneError
from hook.scenes.blending import RowBlender, RowBlock
from hook.scenes.grid import Window, WindowGrid
from hook.scenes.reader import SceneReader
from hook.scenes.sinks import BLOCK_SIZE, ClassMapSink, CogSink, ProbabilitySink, SceneGeometry
from hook.scenes.staging import StagedFiles
from hook.scenes.styles import check_classes

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Batches read ahead of the model, and batches of scores waiting to be blended.
_QUEUE_SIZE = 2
# Windows without data are passed on without a batch in groups of this size at most.
_EMPTY_WINDOWS = 256


@dataclass(frozen=True)
class MapReport:
    """What :func:`map_scene` did."""

    windows: int
    """Windows of the grid."""
    empty_windows: int
    """Windows without a valid pixel, which the model did not see."""
    pixels: int
    """Valid pixels, each of which has a class."""
    class_pixels: tuple[int, ...]
    """Valid pixels of each class."""
    seconds: float
    """Wall time."""


@dataclass
class _Step:
    """Consecutive windows; ``images`` and ``valid`` hold those that are not empty."""

    windows: list[tuple[Window, np.ndarray | None]]
    """Each with the pixels to be mapped, None where there are none."""
    images: np.ndarray | None
    valid: np.ndarray | None


def map_scene(
    predict: Predict,
    input: str | Path,
    output: str | Path,
    *,
    num_classes: int,
    indexes: Sequence[int] | None = None,
    window: int = 512,
    overlap: float = 0.25,
    blend: str = "hann",
    batch_size: int = 4,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    nodata: float | str | None = None,
    out_nodata: int | None = None,
    probabilities: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    creation_options: Mapping[str, object] | None = None,
) -> MapReport:
    """Map a whole scene.

    One thread reads windows ahead, the calling thread runs the model, another blends, decides and
    writes. Memory depends on the window, the batch and the scene's width, not on its height. Any
    failure ends the run with its error, and files appear under their names only when complete.

    The model is asked only about windows with a valid pixel, in a fixed order, so the map is the
    same for every ``batch_size`` as far as the model is.

    Args:
        predict: Called with windows (B, C, window, window) in native values and dtype, and their
            validity (B, window, window) bool, True where all bands are valid; B is ``batch_size``
            or, at the end, less. Returns class probabilities (B, K, window, window).
        input: The scene: any raster GDAL opens.
        output: The map to make, ``.tif``: a Cloud-Optimised GeoTIFF of class indexes with colour
            table; category names in ``<output>.aux.xml`` and a QGIS style in ``<stem>.qml``.
        num_classes: Number of classes, K.
        indexes: 1-based bands of the scene, in the model's order; all but alpha if None.
        window: Side of the model's window in pixels. A smaller scene is extended by reflection.
        overlap: Of neighbouring windows, a fraction of the window below 1 or whole pixels.
        blend: Weights of overlapping windows, see :func:`hook.scenes.blending.blend_profile`.
        batch_size: Windows per call of ``predict``.
        class_names: K names.
        palette: K colours (red, green, blue).
        nodata: Replaces the scene's nodata value: a number, ``"nan"``, or None to keep it.
        out_nodata: Nodata of the map, where no band of the scene is valid; 255 (65535 above 254
            classes) if None.
        probabilities: Also write the probabilities, uint8 with scale and offset, to this ``.tif``.
        overwrite: Replace outputs that exist.
        progress: Show a progress bar (on a terminal).
        creation_options: Options of GDAL's COG driver, such as ``{"COMPRESS": "ZSTD"}``.

    Returns:
        What was done.

    Raises:
        SceneError: The scene cannot be read or lacks a band, an option is impossible, an output
            exists, the model's answer has another shape or is not finite, or writing fails.
        Exception: Whatever ``predict`` raises, unchanged.
    """
    begun = time.monotonic()
    output = Path(output)
    if batch_size != int(batch_size) or batch_size < 1:
        raise SceneError("batch_size", expected="1 or more", found=batch_size)
    names, colours = check_classes(num_classes, class_names, palette)
    _check_names(input, output, probabilities)
    with SceneReader(input, indexes, nodata) as reader, StagedFiles(overwrite) as files:
        grid = WindowGrid(reader.height, reader.width, window, overlap)
        geometry = SceneGeometry(reader.height, reader.width, reader.crs, reader.transform)
        sinks: list[CogSink] = []
        # GDAL's block cache is a share of the machine's memory; a row of windows needs far less.
        with rasterio.Env(GDAL_CACHEMAX=_cache_bytes(reader, grid, num_classes)):
            try:
                if probabilities is not None:
                    sinks.append(
                        ProbabilitySink(
                            files,
                            Path(probabilities),
                            geometry,
                            class_names=names,
                            creation_options=creation_options,
                        )
                    )
                class_map = ClassMapSink(
                    files,
                    output,
                    geometry,
                    class_names=names,
                    palette=colours,
                    nodata=out_nodata,
                    creation_options=creation_options,
                )
                sinks.append(class_map)
                empty = _run(
                    predict, reader, grid, sinks, num_classes, int(batch_size), blend, progress
                )
                for sink in sinks:
                    sink.finish()
            finally:
                for sink in sinks:
                    sink.close()
        files.commit()
    return MapReport(
        windows=len(grid),
        empty_windows=empty,
        pixels=int(class_map.class_pixels.sum()),
        class_pixels=tuple(class_map.class_pixels.tolist()),
        seconds=time.monotonic() - begun,
    )


def _run(
    predict: Predict,
    reader: SceneReader,
    grid: WindowGrid,
    sinks: Sequence[CogSink],
    num_classes: int,
    batch_size: int,
    blend: str,
    progress: bool,
) -> int:
    """Move all windows through reader, model and sinks; return the number of empty ones."""

    def emit(block: RowBlock) -> None:
        for sink in sinks:
            sink.write(block)

    def consume(step: _Step, scores: np.ndarray | None) -> None:
        remaining = iter(() if scores is None else scores)
        for window, covered in step.windows:
            if covered is None:
                blender.skip(window)
            else:
                blender.add(window, next(remaining), covered)

    blender = RowBlender(grid, num_classes, emit, blend)
    steps = _read_steps(reader, grid, batch_size)
    # Tasks of a stage run one after the other on its only thread and never wait for another
    # stage, so that a failure anywhere cannot leave somebody waiting.
    read_stage = ThreadPoolExecutor(1, "read")
    write_stage = ThreadPoolExecutor(1, "write")
    written: deque = deque()
    empty_windows = 0
    try:
        reads = deque(read_stage.submit(next, steps, None) for _ in range(_QUEUE_SIZE))
        with tqdm(total=len(grid), unit="window", disable=None if progress else True) as bar:
            while (step := reads.popleft().result()) is not None:
                reads.append(read_stage.submit(next, steps, None))
                scores = None
                if step.images is not None:
                    scores = predict(step.images, step.valid)
                    scores = _check_scores(scores, len(step.images), num_classes, grid.window)
                while len(written) >= _QUEUE_SIZE or (written and written[0].done()):
                    written.popleft().result()
                written.append(write_stage.submit(consume, step, scores))
                empty_windows += sum(covered is None for _, covered in step.windows)
                bar.update(len(step.windows))
            for task in written:
                task.result()
            write_stage.submit(blender.finish).result()
    finally:
        read_stage.shutdown(cancel_futures=True)
        write_stage.shutdown(cancel_futures=True)
    return empty_windows


def _read_steps(reader: SceneReader, grid: WindowGrid, batch_size: int) -> Iterator[_Step]:
    windows, images, valid = [], [], []
    for window in grid:
        data = reader.read(window, grid.window)
        empty = not data.covered.any()
        windows.append((window, None if empty else data.covered))
        if not empty:
            images.append(data.image)
            valid.append(data.valid)
        if len(images) == batch_size:
            yield _Step(windows, np.stack(images), np.stack(valid))
            windows, images, valid = [], [], []
        elif not images and len(windows) >= _EMPTY_WINDOWS:
            yield _Step(windows, None, None)
            windows = []
    if images:
        yield _Step(windows, np.stack(images), np.stack(valid))
    elif windows:
        yield _Step(windows, None, None)


def _check_scores(scores, batch: int, num_classes: int, window: int) -> np.ndarray:
    expected = (batch, num_classes, window, window)
    found = getattr(scores, "shape", None)
    if found is None or tuple(found) != expected:
        raise SceneError(
            "the model's answer to a batch of windows",
            expected=f"scores of shape {expected} (windows, classes, height, width)",
            found=type(scores).__name__ if found is None else f"shape {tuple(found)}",
            remedy="check num_classes and that the model answers at the input's resolution",
        )
    # A copy, because the model may use its buffer again before this one is blended.
    return np.array(scores, np.float32)


def _check_names(input: str | Path, output: Path, probabilities: str | Path | None) -> None:
    for path in filter(None, (output, probabilities)):
        path = Path(path)
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise SceneError(f"{path}: not a name for a GeoTIFF", expected="a name ending in .tif")
        if path.exists() and Path(input).exists() and path.samefile(input):
            raise SceneError(
                f"{path}: is the input", remedy="give the output another name than the scene"
            )


def _cache_bytes(reader: SceneReader, grid: WindowGrid, num_classes: int) -> int:
    rows = min(grid.window + 2 * reader.block_height, grid.height)
    output_row_bytes = reader.width * (num_classes + 2)
    wanted = rows * reader.row_bytes + 2 * min(BLOCK_SIZE, grid.height) * output_row_bytes
    return int(np.clip(wanted, 16 << 20, 512 << 20))
