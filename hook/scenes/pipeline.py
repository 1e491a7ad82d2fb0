"""Windows of a scene through a function, block by block: what maps and regions share."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import rasterio

from hook.errors import SceneError
from hook.geo.staging import StagedFiles
from hook.progress import progress_bar
from hook.scenes.blocks import Block, BlockPlan
from hook.scenes.grid import Window, WindowGrid
from hook.scenes.journal import Journal
from hook.scenes.reader import AreaOfInterest, CellReader, SceneReader, fingerprint_of_raster
from hook.scenes.request import SceneRequest

# Batches read ahead of the model, and batches of answers waiting to be consumed.
QUEUE_SIZE = 2
# Windows without data are passed on without a batch in groups of this size at most.
_EMPTY_WINDOWS = 256


@dataclass(frozen=True)
class Scene:
    """What is read: the arguments of :class:`SceneReader`."""

    paths: tuple[str, ...]
    indexes: tuple[int, ...] | None = None
    nodata: float | str | None = None
    aoi: AreaOfInterest | None = None
    cells: tuple[int, int] | None = None
    """Sides of a window and of a cell, where a class is one cell's, see :class:`CellReader`."""

    @classmethod
    def of(cls, request: SceneRequest, cells: tuple[int, int] | None = None) -> "Scene":
        """Take what is read from a request."""
        return cls(request.input, request.bidx, request.nodata, request.aoi, cells)

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


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """How a scene is cut into windows, and these into batches and blocks."""

    height: int
    width: int
    window: int
    overlap: float
    batch_size: int
    block_windows: int

    @property
    def grid(self) -> WindowGrid:
        """The windows."""
        return WindowGrid(self.height, self.width, self.window, self.overlap)

    @property
    def blocks(self) -> BlockPlan:
        """The groups of windows."""
        return BlockPlan(self.grid, self.block_windows)


class Job(NamedTuple):
    """What is made of the answers to windows; names of modules, which survive pickling."""

    check: Callable[[Any, int, Any], Any]
    """Refuses a wrong answer to a batch, and copies it: answer, number of windows, plan."""
    writer: Callable[[Any, Journal], Any]
    """Makes, of plan and journal, what writes blocks: its ``consume`` is called with every
    :class:`Step` and the answer to it (None where a step has no images), in order; then its
    ``close``, whatever happened."""
    cache_bytes: Callable[[SceneReader, Any], int]
    """Size of GDAL's block cache: scene, plan."""
    join: Callable[[Journal, Any, int], None] | None = None
    """What the caller does with a block that a worker has finished: journal, plan, its number."""


RunBlocks = Callable[
    [Job, Scene, WindowPlan, Sequence[Block], Journal, Callable[[int], None]], None
]
"""Runs blocks elsewhere: calls :func:`move_windows` for each in some process, with a journal of the
same folder, then the job's ``join`` here, and reports the windows that are done."""


@contextmanager
def unfinished(
    request: SceneRequest, fingerprint: Mapping[str, Any]
) -> Iterator[tuple[Journal, StagedFiles]]:
    """Hold the journal and the staged files of a run for the life of a ``with`` block.

    Finished blocks survive an error, so that the run can be resumed; the journal is removed when
    the ``with`` block ends without one.

    Args:
        request: What is asked.
        fingerprint: All that decides the bytes of the output, see :class:`Journal`.

    Yields:
        The journal, and the files to be committed in the ``with`` block.
    """
    output, replace = request.output, request.overwrite or request.resume
    journal = Journal(output, fingerprint, request.resume, request.overwrite)
    try:
        with StagedFiles(replace, f".{output.name}.finished") as files:
            yield journal, files
    except BaseException:
        if not any(journal.folder.glob("*.done")):
            journal.remove()  # there is nothing to go on with
        raise
    journal.remove()


def run_missing_blocks(
    job: Job,
    function: Callable | None,
    scene: Scene,
    reader: SceneReader | CellReader,
    plan: WindowPlan,
    journal: Journal,
    run_blocks: RunBlocks | None,
    progress: bool,
) -> int:
    """Do the blocks that the journal lacks.

    Args:
        job: What is made of the answers.
        function: The function of windows; not called with ``run_blocks``.
        scene: The scene.
        reader: The same, open.
        plan: How it is cut up.
        journal: What is finished.
        run_blocks: Runs the blocks elsewhere; None: here.
        progress: Show a progress bar on a terminal.

    Returns:
        The number of windows that were finished before.
    """
    missing = [block for block in plan.blocks if not journal.has(block.note)]
    resumed = len(plan.grid) - sum(len(block.windows(plan.grid)) for block in missing)
    bar = progress_bar(total=len(plan.grid), initial=resumed, unit="window", show=progress)
    # GDAL's block cache is a share of the machine's memory; a row of windows needs far less.
    with rasterio.Env(GDAL_CACHEMAX=job.cache_bytes(reader, plan)), bar:
        if run_blocks is None or not missing:
            move_windows(job, function, reader, plan, missing, journal, bar.update)
        else:
            run_blocks(job, scene, plan, missing, journal, bar.update)
    return resumed


def refuse_input(output: os.PathLike, inputs: Sequence[str]) -> None:
    """Refuse an output that is the scene.

    Raises:
        SceneError: It is.
    """
    for path in inputs:
        if os.path.exists(output) and os.path.exists(path) and os.path.samefile(output, path):
            raise SceneError(
                f"{output}: is the input", remedy="give the output another name than the scene"
            )


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


def move_windows(
    job: Job,
    function: Callable[[np.ndarray, np.ndarray], Any],
    reader: SceneReader | CellReader,
    plan: WindowPlan,
    blocks: Sequence[Block],
    journal: Journal,
    report: Callable[[int], None],
) -> None:
    """Read windows ahead in one thread, ask the model in this one, write answers in another.

    Args:
        job: What is made of the answers.
        function: Asked about images (B, C, window, window) and their validity (B, window, window).
        reader: The scene.
        plan: How it is cut up.
        blocks: Blocks whose windows are to be moved.
        journal: Takes what is finished.
        report: Called with the number of windows that the model has answered.
    """
    writer = job.writer(plan, journal)
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
            answered = None
            if step.images is not None:
                answered = job.check(function(step.images, step.valid), len(step.images), plan)
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


def _read_steps(
    reader: SceneReader | CellReader, plan: WindowPlan, blocks: Iterable[Block]
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
