"""A scene of any size through a model, into a map."""

import dataclasses
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio

from hook.errors import SceneError
from hook.geo.staging import StagedFiles
from hook.geo.styles import check_classes
from hook.progress import progress_bar
from hook.scenes.blending import (
    RowBlender,
    RowBlock,
    SeamRows,
    blend_profile,
    finish_rows,
    join_seam,
    rows_at_a_time,
)
from hook.scenes.blocks import WINDOWS_PER_BLOCK, Block, BlockPlan
from hook.scenes.grid import Window, WindowGrid
from hook.scenes.journal import Journal
from hook.scenes.layers import (
    BLOCK_SIZE,
    ClassLayer,
    Layer,
    Part,
    PartFile,
    SceneGeometry,
    ScoreLayer,
    try_options,
    write_cog,
    writing,
)
from hook.scenes.reader import (
    AreaOfInterest,
    CellReader,
    SceneReader,
    fingerprint_of_raster,
)
from hook.scenes.stac import ModelCard, TimeSpan, WrittenLayer, write_stac_item

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Batches read ahead of the model, and batches of scores waiting to be blended.
QUEUE_SIZE = 2
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
    resumed_windows: int = 0
    """Windows that an interrupted run had mapped already."""


@dataclass(frozen=True)
class Scene:
    """What is to be read: the arguments of :class:`SceneReader`."""

    paths: tuple[str, ...]
    indexes: tuple[int, ...] | None = None
    nodata: float | str | None = None
    aoi: AreaOfInterest | None = None
    cells: tuple[int, int] | None = None
    """Sides of a window and of a cell, where a class is one cell's, see :class:`CellReader`."""

    def open(self) -> SceneReader | CellReader:
        """Open the scene."""
        reader = SceneReader(self.paths, self.indexes, self.nodata, self.aoi)
        return reader if self.cells is None else CellReader(reader, *self.cells)

    def fingerprint(self) -> dict[str, Any]:
        """Give what tells the scene from another, or from its own later state."""
        return {
            "input": [fingerprint_of_raster(path) for path in self.paths],
            "bands": self.indexes,
            "nodata": self.nodata,
            "cells": self.cells,
            "area of interest": self.aoi
            and [str(self.aoi.crs), *(shape.wkt for shape in self.aoi.shapes)],
        }


@dataclass(frozen=True)
class Plan:
    """How a scene is cut up and put together; the same in every process."""

    height: int
    width: int
    num_classes: int
    window: int
    overlap: float
    blend: str
    batch_size: int
    block_windows: int
    layers: tuple[Layer, ...]

    @property
    def grid(self) -> WindowGrid:
        """The windows."""
        return WindowGrid(self.height, self.width, self.window, self.overlap)

    @property
    def blocks(self) -> BlockPlan:
        """The groups of windows."""
        return BlockPlan(self.grid, self.block_windows)

    def fingerprint(self) -> dict[str, Any]:
        """Give what decides the bytes of the map, apart from scene and model."""
        options = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "layers"
        }
        return {**options, "layers": [layer.describe() for layer in self.layers]}


@dataclass
class Step:
    """Consecutive windows of a block; ``images`` and ``valid`` hold those that are not empty."""

    block: Block
    windows: list[tuple[Window, np.ndarray | None]]
    """Each with the pixels to be mapped, None where there are none."""
    images: np.ndarray | None
    valid: np.ndarray | None
    last: bool
    """The block's last one."""


def plan_scene(
    input: str | Path | Sequence[str | Path],
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
    aoi: AreaOfInterest | None = None,
    cell: int | None = None,
    scores: Sequence[str] = (),
    scores_path: str | Path | None = None,
    creation_options: Mapping[str, object] | None = None,
    block_windows: int = WINDOWS_PER_BLOCK,
) -> tuple[Scene, Plan]:
    """Say what is read, how it is cut up and what is written.

    Args:
        input: The scene: any raster GDAL opens, or several that make up one area, the first in
            front where they overlap.
        output: The map to make, ``.tif``: a Cloud-Optimised GeoTIFF of class indexes with colour
            table; category names in ``<output>.aux.xml``, a QGIS style in ``<stem>.qml`` and a STAC
            Item in ``<stem>.json``.
        num_classes: Number of classes, K.
        indexes: 1-based bands of the scene, in the model's order; all but alpha if None.
        window: Side of the model's window in pixels. A smaller scene is extended by reflection.
        overlap: Of neighbouring windows, a fraction of the window below 1 or whole pixels.
        blend: Weights of overlapping windows, see :func:`hook.scenes.blending.blend_profile`.
        batch_size: Windows per call of the model.
        class_names: K names.
        palette: K colours (red, green, blue).
        nodata: Replaces the scene's nodata value: a number, ``"nan"``, or None to keep it.
        out_nodata: Nodata of the map, where no band of the scene is valid; 255 (65535 above 255
            classes) if None.
        aoi: Area of interest, see :class:`hook.scenes.reader.AreaOfInterest`: only its bounding
            box is mapped, and in it only what lies inside.
        cell: For a model that gives every window one class, (B, K): the map then has one pixel per
            cell of so many pixels of the scene, in the middle of a window; ``overlap`` and
            ``blend`` mean nothing. None: the model gives a class to every pixel.
        scores: Also write how sure the map is: one or more of ``"probs"``, ``"entropy"`` and
            ``"margin"``, see :class:`hook.scenes.layers.ScoreLayer`.
        scores_path: File of the scores; ``<stem>.scores.tif`` beside the map if None.
        creation_options: Options of GDAL's COG driver, such as ``{"COMPRESS": "ZSTD"}``.
        block_windows: Least number of windows of a block.

    Returns:
        The scene, and the plan of its map.

    Raises:
        SceneError: The scene cannot be read or lacks a band, or an option is impossible.
    """
    output = Path(output)
    if batch_size != int(batch_size) or batch_size < 1:
        raise SceneError(
            "batch_size",
            expected="1 or more",
            found=batch_size,
            remedy="give the number of windows of a pass of the model (--batch)",
        )
    names, colours = check_classes(num_classes, class_names, palette)
    inputs = (input,) if isinstance(input, str | Path) else tuple(input)
    layers: list[Layer] = [
        ClassLayer(
            output,
            class_names=names,
            palette=colours,
            nodata=out_nodata,
            creation_options=creation_options,
        )
    ]
    if scores:
        layers.insert(
            0,  # the map comes last: where it is, all is
            ScoreLayer(
                scores_path or output.with_suffix(".scores.tif"),
                class_names=names,
                kinds=scores,
                creation_options=creation_options,
            ),
        )
    _check_names(inputs, layers)
    scene = Scene(
        tuple(str(path) for path in inputs),
        None if indexes is None else tuple(indexes),
        nodata,
        aoi,
        None if cell is None else (window, cell),
    )
    if cell is not None:
        window, overlap, blend = 1, 0, "mean"
    with scene.open() as reader:
        size = reader.height, reader.width
    plan = Plan(
        *size, num_classes, window, overlap, blend, int(batch_size), block_windows, tuple(layers)
    )
    _ = plan.blocks, blend_profile(plan.grid.window, plan.grid.overlap, blend)  # or an error
    return scene, plan


def map_scene(
    predict: Predict | None,
    input: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    fingerprint: Mapping[str, Any] | None = None,
    run_blocks: "RunBlocks | None" = None,
    model: ModelCard | None = None,
    times: TimeSpan | None = None,
    finish: Callable[[], None] | None = None,
    **options: Any,
) -> MapReport:
    """Map a whole scene.

    One thread reads windows ahead, the calling thread runs the model, another blends, decides and
    writes. Memory depends on the window, the batch and the scene's width, not on its height. Any
    failure ends the run with its error, and files appear under their names only when complete.

    The scene is mapped in blocks of windows, whose results wait in ``.<output>.unfinished``
    beside the output until all are there. A run that was interrupted, at any moment and by
    anything, goes on from there with ``resume`` and gives the same bytes. What is computed
    together depends on the scene and the options alone, so the bytes are also the same however
    many processes share the blocks; neither time nor place of the run is in any output.

    Args:
        predict: Called with windows (B, C, window, window) in native values and dtype, and their
            validity (B, window, window) bool, True where all bands are valid. B is always the
            same; a batch that lacks windows repeats its last one. Returns class probabilities
            (B, K, window, window). The model is asked only about windows with a valid pixel.
        input: See :func:`plan_scene`.
        output: See :func:`plan_scene`.
        resume: Go on with what an interrupted run left; without one, start.
        overwrite: Replace outputs that exist, and, without ``resume``, what an interrupted run
            left.
        progress: Show a progress bar (on a terminal).
        fingerprint: What decides the answers of ``predict``, as JSON can hold it; to resume a run
            with another one is refused.
        run_blocks: Runs the blocks elsewhere, see :data:`RunBlocks`; None: here.
        model: What the map's STAC Item is to say of the model, see
            :func:`hook.scenes.stac.write_stac_item`.
        times: First and last moment of the scene; None: as the tags of its files tell.
        finish: Called when the files have their names, to make what follows from them; a run that
            is interrupted in it can be resumed.
        **options: Of :func:`plan_scene`; ``num_classes`` is needed.

    Returns:
        What was done.

    Raises:
        SceneError: See :func:`plan_scene`; or an output exists, the model's answer has another
            shape or is not finite, the run to resume was another one, or writing fails.
        Exception: Whatever ``predict`` or ``finish`` raises, unchanged.
    """
    begun = time.monotonic()
    scene, plan = plan_scene(input, output, **options)
    output, layers, num_classes = Path(output), plan.layers, plan.num_classes
    with scene.open() as reader:
        geometry = SceneGeometry(reader.height, reader.width, reader.crs, reader.transform)
        blocks = plan.blocks
        journal = Journal(
            output,
            {**scene.fingerprint(), **plan.fingerprint(), "model": dict(fingerprint or {})},
            resume,
            overwrite,
        )
        try:
            with StagedFiles(overwrite or resume, f".{output.name}.finished") as files:
                item = output.with_suffix(".json")
                staged_item = files.add(item)
                staged = [layer.add_to(files) for layer in layers]
                for layer in layers:
                    try_options(layer, geometry, journal.folder)
                missing = [block for block in blocks if not journal.has(_done(block))]
                resumed = sum(
                    len(block.windows(plan.grid)) for block in blocks if block not in missing
                )
                # GDAL's block cache is a share of the machine's memory; a row of windows needs
                # far less.
                with rasterio.Env(GDAL_CACHEMAX=cache_bytes(reader, plan)):
                    bar = progress_bar(
                        total=len(plan.grid),
                        initial=resumed,
                        unit="window",
                        show=progress,
                    )
                    with bar:
                        if run_blocks is None or not missing:
                            map_blocks(predict, reader, plan, missing, journal, bar.update)
                        else:
                            run_blocks(scene, plan, missing, journal, bar.update)
                    for block in blocks[1:]:
                        join_seams(journal, plan, block.index)
                    done = []
                    with progress_bar(total=len(layers), unit="file", show=progress) as bar:
                        for layer, path in zip(layers, staged, strict=True):
                            bar.set_description(f"writing {path.name}")
                            parts = _parts(journal, plan, layer)
                            counts = write_cog(path, layer, geometry, parts, journal.folder)
                            layer.finish()
                            done.append(WrittenLayer(layer, path, counts))
                            bar.update()
                write_stac_item(
                    staged_item,
                    geometry,
                    done,
                    output=item,
                    inputs=scene.paths,
                    times=times or reader.times,
                    model=model,
                )
                files.commit()
            if finish is not None:
                finish()
        except BaseException:
            if not any(journal.folder.glob("*.done")):
                journal.remove()  # there is nothing to go on with
            raise
        empty = sum(journal.read_json(_done(block))["empty"] for block in blocks)
        journal.remove()
    return MapReport(
        windows=len(plan.grid),
        empty_windows=empty,
        pixels=int(counts[:num_classes].sum()),
        class_pixels=tuple(counts[:num_classes].tolist()),
        seconds=time.monotonic() - begun,
        resumed_windows=resumed,
    )


# ---------------------------------------------------------------------------------- blocks
RunBlocks = Callable[[Scene, Plan, Sequence[Block], Journal, Callable[[int], None]], None]
"""Runs blocks elsewhere: calls :func:`map_blocks` for each in some process, with a journal of the
same folder, and reports the windows that are done."""


def map_blocks(
    predict: Predict,
    reader: SceneReader | CellReader,
    plan: Plan,
    blocks: Sequence[Block],
    journal: Journal,
    report: Callable[[int], None],
    joins: bool = True,
) -> None:
    """Move the windows of some blocks through reader and model into the journal.

    Args:
        predict: See :func:`map_scene`.
        reader: The scene.
        plan: How it is cut up.
        blocks: Blocks to map.
        journal: Takes their finished rows and their seams.
        report: Called with the number of windows that the model has answered.
        joins: Also blend the seams of neighbours that are both finished, see :func:`join_seams`.
    """

    def answer(images: np.ndarray, valid: np.ndarray) -> np.ndarray:
        scores = predict(images, valid)
        return check_scores(scores, len(images), plan.num_classes, plan.window)

    move_windows(answer, reader, plan, blocks, _BlockWriter(plan, journal, joins), report)


def move_windows(
    answer: Callable[[np.ndarray, np.ndarray], Any],
    reader: SceneReader | CellReader,
    plan: Any,
    blocks: Sequence[Block],
    writer: Any,
    report: Callable[[int], None],
) -> None:
    """Read windows ahead in one thread, ask the model in this one, consume answers in another.

    Args:
        answer: Asked about images (B, C, window, window) and their validity (B, window, window).
        reader: The scene.
        plan: With a ``grid`` and a ``batch_size``.
        blocks: Blocks whose windows are to be moved.
        writer: Its ``consume`` is called with every :class:`Step` and the answer to it (None where
            a step has no images), in order; then its ``close``, whatever happened.
        report: Called with the number of windows that the model has answered.
    """
    steps = _read_steps(reader, plan, blocks)
    # Tasks of a stage run one after the other on its only thread and never wait for another
    # stage, so that a failure anywhere cannot leave somebody waiting.
    read_stage = ThreadPoolExecutor(1, "read")
    write_stage = ThreadPoolExecutor(1, "write")
    written: deque = deque()
    try:
        reads = deque(read_stage.submit(next, steps, None) for _ in range(QUEUE_SIZE))
        while (step := reads.popleft().result()) is not None:
            reads.append(read_stage.submit(next, steps, None))
            answered = None if step.images is None else answer(step.images, step.valid)
            while len(written) >= QUEUE_SIZE or (written and written[0].done()):
                written.popleft().result()
            written.append(write_stage.submit(writer.consume, step, answered))
            report(len(step.windows))
        for task in written:
            task.result()
    finally:
        read_stage.shutdown(cancel_futures=True)
        write_stage.shutdown(cancel_futures=True)
        writer.close()


class _BlockWriter:
    """Blends the answers to the windows of blocks and writes what is finished to the journal."""

    def __init__(self, plan: Plan, journal: Journal, joins: bool) -> None:
        self._plan, self._journal, self._joins = plan, journal, joins
        self._grid = plan.grid
        self._seam_row = _seam_row(plan)
        self._block: Block | None = None
        self._blender: RowBlender | None = None
        self._files: list[PartFile] = []
        self._seams: dict[str, BinaryIO] = {}
        self._empty = 0

    def consume(self, step: Step, scores: np.ndarray | None) -> None:
        """Blend the scores of a step's windows that are not empty."""
        if self._blender is None:
            self._begin(step.block)
        remaining = iter(() if scores is None else scores)
        for window, covered in step.windows:
            if covered is None:
                self._blender.skip(window)
                self._empty += 1
            else:
                self._blender.add(window, next(remaining), covered)
        if step.last:
            self._finish(step.block)

    def _begin(self, block: Block) -> None:
        plan = self._plan
        self._block, self._empty = block, 0
        rows = block.bottom - block.top
        self._names = [_part(block.index, number) for number in range(len(plan.layers))]
        if rows:
            for name, layer in zip(self._names, plan.layers, strict=True):
                path = self._journal.partial(name)
                self._files.append(PartFile(path, layer, rows, plan.width))
        self._blender = RowBlender(
            self._grid, plan.num_classes, self._emit, plan.blend, block, self._emit_seam
        )

    def _emit(self, rows: RowBlock) -> None:
        for file, layer in zip(self._files, self._plan.layers, strict=True):
            file.write(layer.encode(rows))

    def _emit_seam(self, rows: SeamRows) -> None:
        side = "top" if rows.row_off < self._block.top else "bottom"
        if side not in self._seams:
            name = _seam(self._block.index, side)
            self._seams[side] = self._journal.partial(name).open("wb")
        records = np.empty(len(rows.state), self._seam_row)
        records["mean"] = rows.mean.transpose(1, 0, 2)
        records["weight"], records["state"] = rows.weight, rows.state
        with writing(self.seam_path(side)):
            records.tofile(self._seams[side])

    def seam_path(self, side: str) -> Path:
        """Name the file of the block's upper or lower seam."""
        return self._journal.path(_seam(self._block.index, side))

    def _finish(self, block: Block) -> None:
        self._blender.finish()
        names = list(self._names) if self._files else []
        for file in self._files:
            file.finish()
        for side, file in self._seams.items():
            with writing(self.seam_path(side)):
                file.close()
            names.append(_seam(block.index, side))
        self._journal.commit(names)
        self._journal.write_text(_done(block), json.dumps({"empty": self._empty}))
        self._files, self._seams, self._blender = [], {}, None
        if self._joins:
            join_seams(self._journal, self._plan, block.index)

    def close(self) -> None:
        """Release the files of a block that was not finished."""
        for file in (*self._files, *self._seams.values()):
            file.close()


def _read_steps(
    reader: SceneReader | CellReader, plan: Plan, blocks: Iterable[Block]
) -> Iterator[Step]:
    grid = plan.grid
    size = min(plan.batch_size, len(grid))
    for block in blocks:
        windows, images, valid = [], [], []
        for window in block.windows(grid):
            data = reader.read(window, grid.window)
            empty = not data.covered.any()
            if len(images) == size or (not images and len(windows) >= _EMPTY_WINDOWS):
                yield _step(block, windows, images, valid, size, last=False)
                windows, images, valid = [], [], []
            windows.append((window, None if empty else data.covered))
            if not empty:
                images.append(data.image)
                valid.append(data.valid)
        yield _step(block, windows, images, valid, size, last=True)


def _step(block, windows, images, valid, size: int, last: bool) -> Step:
    if not images:
        return Step(block, windows, None, None, last)
    # Full batches only: what a model answers may depend on how many windows it is asked about.
    fill = size - len(images)
    images = np.stack([*images, *images[-1:] * fill])
    return Step(block, windows, images, np.stack([*valid, *valid[-1:] * fill]), last)


def check_scores(scores, batch: int, num_classes: int, window: int) -> np.ndarray:
    """Refuse a model's answer of another shape; copy it.

    Raises:
        SceneError: It is none of (batch, num_classes, window, window), or, of windows with one
            class each, (batch, num_classes).
    """
    expected = (batch, num_classes, window, window)
    if window == 1 and getattr(scores, "shape", None) == expected[:2]:
        scores = np.reshape(scores, expected)  # one class per window
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


# ---------------------------------------------------------------------------------- pieces
def _done(block: Block) -> str:
    return f"block{block.index:06d}.done"


def _part(block: int, layer: int) -> str:
    return f"block{block:06d}.{layer}.tif"


def _seam_part(upper: int, layer: int) -> str:
    return f"seam{upper:06d}.{layer}.tif"


def _seam(block: int, side: str) -> str:
    return f"block{block:06d}.{side}.seam"


def _seam_row(plan: Plan) -> np.dtype:
    """Layout of a row of a seam in its file."""
    k, width = plan.num_classes, plan.width
    return np.dtype(
        [("mean", "<f4", (k, width)), ("weight", "<f4", (width,)), ("state", "u1", (width,))]
    )


def _read_seam(path: Path, layout: np.dtype, first: int, count: int, row_off: int) -> SeamRows:
    rows = np.fromfile(path, layout, count, offset=first * layout.itemsize)
    return SeamRows(row_off, rows["mean"].transpose(1, 0, 2), rows["weight"], rows["state"])


def join_seams(journal: Journal, plan: Plan, index: int) -> None:
    """Blend the rows that a finished block shares with finished neighbours.

    One process at a time may do this in a journal.

    Args:
        journal: The finished blocks.
        plan: How the scene is cut up.
        index: Number of the block.
    """
    blocks = plan.blocks
    for upper in (index - 1, index):
        if 0 <= upper < len(blocks) - 1:
            pair = blocks[upper : upper + 2]
            if all(journal.has(_done(block)) for block in pair):
                _join(journal, plan, *pair)


def _join(journal: Journal, plan: Plan, upper: Block, lower: Block) -> None:
    rows = lower.top - upper.bottom
    sides = [_seam(upper.index, "bottom"), _seam(lower.index, "top")]
    names = [_seam_part(upper.index, number) for number in range(len(plan.layers))]
    if rows and not all(journal.has(name) for name in names):
        layout = _seam_row(plan)
        files = [
            PartFile(journal.partial(name), layer, rows, plan.width)
            for name, layer in zip(names, plan.layers, strict=True)
        ]
        try:
            block = rows_at_a_time(plan.width)
            for first in range(0, rows, block):
                count = min(block, rows - first)
                above, below = (
                    _read_seam(journal.path(side), layout, first, count, upper.bottom + first)
                    for side in sides
                )
                finished = finish_rows(join_seam(above, below))
                for file, layer in zip(files, plan.layers, strict=True):
                    file.write(layer.encode(finished))
            for file in files:
                file.finish()
        finally:
            for file in files:
                file.close()
        journal.commit(names)
    journal.drop(sides)


def _parts(journal: Journal, plan: Plan, layer: Layer) -> list[Part]:
    """List the files of a layer from top to bottom."""
    number, parts = plan.layers.index(layer), []
    for block in plan.blocks:
        if block.bottom > block.top:
            path = journal.path(_part(block.index, number))
            parts.append(Part(block.top, block.bottom - block.top, path))
        if block.stop > block.bottom:
            path = journal.path(_seam_part(block.index, number))
            parts.append(Part(block.bottom, block.stop - block.bottom, path))
    return parts


def _check_names(inputs: Sequence[str | Path], layers: Sequence[Layer]) -> None:
    for layer in layers:
        path = layer.output
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise SceneError(
                f"{path}: not a name for a GeoTIFF",
                expected="a name ending in .tif",
                remedy="give the map a name ending in .tif",
            )
        for input in inputs:
            if path.exists() and os.path.exists(input) and path.samefile(input):
                raise SceneError(
                    f"{path}: is the input", remedy="give the output another name than the scene"
                )


def cache_bytes(reader: SceneReader | CellReader, plan: Plan) -> int:
    """Give the size of GDAL's block cache: a row of windows in, later two rows of blocks out."""
    read = min(plan.window + reader.block_height, plan.height) * reader.row_bytes
    row_bytes = max(layer.count * np.dtype(layer.dtype).itemsize for layer in plan.layers)
    written = 2 * min(BLOCK_SIZE, plan.height) * plan.width * (row_bytes + 1)
    return int(np.clip(max(read, written), 16 << 20, 512 << 20))
