"""Applying a function to the windows of a scene, block by block, for maps and regions."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import rasterio

from hook.geo.bands import merge_ranges
from hook.geo.staging import StagedFiles
from hook.progress import progress_bar
from hook.scenes.blocks import Block, BlockPlan
from hook.scenes.grid import Window, WindowGrid
from hook.scenes.journal import Journal, exclusive, finished, staging_folder
from hook.scenes.reader import (
    AreaOfInterest,
    CellReader,
    Halo,
    HaloReader,
    SceneReader,
    SeriesReader,
    fingerprint_of_raster,
)
from hook.scenes.request import SceneRequest

QUEUE_SIZE = 2  # batches read ahead, and batches of outputs waiting to be written
_EMPTY_WINDOWS = 256  # maximum number of windows of a step without images


@dataclass(frozen=True, kw_only=True)
class SceneReport:
    """Report of a run over the windows of a scene."""

    windows: int
    """Windows of the grid; blocks with codes."""
    empty_windows: int
    """Windows without valid pixels, which skip the model."""
    pixels: int
    """Valid pixels."""
    seconds: float
    """Wall time."""
    resumed_windows: int = 0
    """Windows finished by an interrupted run."""
    ranges: tuple[np.ndarray, ...] = field(default=(), compare=False, repr=False)
    """Range of the values of each file, see :func:`hook.geo.bands.value_range`."""
    finished_before: bool = False
    """The run to resume had finished, and nothing was done."""

    def __str__(self) -> str:
        begin = "finished already: " if self.finished_before else ""
        return (
            f"{begin}{self._result()}{self.pixels} pixels, {self.windows} windows "
            f"({self.empty_windows} empty), {self.seconds:.1f} s"
        )

    def _result(self) -> str:
        """Return what the run wrote, with a comma after it."""
        return ""


@dataclass(frozen=True)
class Scene:
    """Arguments of :class:`SceneReader`."""

    paths: tuple[str, ...]
    indexes: tuple[int | str, ...] | None = None
    nodata: float | str | None = None
    metainfo: Mapping[str, Any] | None = None
    aoi: AreaOfInterest | None = None
    cells: tuple[int, int] | None = None
    """Sides of a window and of a cell, for one class per cell, see :class:`CellReader`."""
    halo: Halo | None = None
    """For windows with margins of a grid coarser or finer than the scene's."""
    dates: "tuple[Scene, ...]" = ()
    """Of a time series, in place of ``paths`` and ``indexes``."""

    @classmethod
    def of(cls, request: SceneRequest, cells: tuple[int, int] | None = None) -> "Scene":
        """Create it from a request."""
        options = request.bidx, request.nodata, request.metainfo, request.aoi
        return cls(request.input, *options, cells)

    def open(self) -> SceneReader | CellReader | HaloReader:
        """Open the scene."""
        with ExitStack() as stack:
            if self.dates:
                reader = SeriesReader([stack.enter_context(one.open()) for one in self.dates])
            else:
                own = self.indexes, self.nodata, self.aoi, self.metainfo
                reader = SceneReader(self.paths, *own)
            stack.pop_all()
        if self.halo is not None:
            return HaloReader(reader, self.halo)
        return reader if self.cells is None else CellReader(reader, *self.cells)

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the scene in its present state."""
        return {
            "input": [fingerprint_of_raster(path) for path in self.paths],
            "bands": self.indexes,
            "nodata": self.nodata,
            "cells": self.cells,
            "halo": self.halo,
            "dates": [one.fingerprint() for one in self.dates],
            "area of interest": self.aoi
            and [str(self.aoi.crs), *(shape.wkt for shape in self.aoi.shapes)],
        }


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """Division of a scene into windows, batches and blocks."""

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
    def batch(self) -> int:
        """Windows of a batch."""
        return min(self.batch_size, len(self.grid))

    @property
    def blocks(self) -> BlockPlan:
        """The groups of windows."""
        return BlockPlan(self.grid, self.block_windows)


class Job(NamedTuple):
    """Functions that process the outputs of windows; module-level, to be picklable."""

    check: Callable[[Any, int, Any], Any]
    """Checks and copies the output of a batch: output, number of windows, plan."""
    writer: Callable[[Any, Journal], Any]
    """Creates the writer of blocks from plan and journal. Its ``consume`` is called with each
    :class:`Step` and its output (None for a step without images), in order; finally its
    ``close``, also after errors."""
    cache_bytes: Callable[[SceneReader, Any], int]
    """Size of GDAL's block cache: scene, plan."""
    join: Callable[[Journal, Any, int], None] | None = None
    """Called in this process for each block that a worker has finished: journal, plan, index."""


RunBlocks = Callable[
    [Job, Scene, WindowPlan, Sequence[Block], Journal, Callable[[int], None]], None
]
"""Runs blocks in other processes: calls :func:`move_windows` for each, with a journal of the same
folder, then ``join`` of the job in this process, and reports the windows done."""


Report = TypeVar("Report")


def report_of_finished(
    kind: type[Report], request: SceneRequest, settings: Mapping[str, Any]
) -> Report | None:
    """Return the report of a run to resume that has finished already, None for others.

    Args:
        kind: Class of the report.
        request: Options of the run.
        settings: See :func:`hook.scenes.journal.finished`.
    """
    stored = finished(request.output, settings) if request.resume else None
    if stored is None:
        return None
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    ranges = tuple(map(np.array, values["ranges"]))
    now = dict(seconds=0.0, resumed_windows=values["windows"], ranges=ranges, finished_before=True)
    return kind(**{**values, **now})


@contextmanager
def unfinished(
    request: SceneRequest,
    fingerprint: Mapping[str, Any],
    further: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Journal, StagedFiles]]:
    """Open the journal and the staged files of a run, to be committed in the ``with`` block.

    After an error, finished blocks are kept for resuming; otherwise the journal is removed.

    Args:
        request: Options of the run.
        fingerprint: All that determines the bytes of the output, see :class:`Journal`.
        further: See :class:`Journal`.
    """
    output = request.output
    with exclusive(output):
        journal = Journal(output, fingerprint, request.resume, request.overwrite, further)
        try:
            replace = request.overwrite or journal.continued
            with StagedFiles(replace, staging_folder(output), request.inputs) as files:
                yield journal, files
        except BaseException as error:
            if any(journal.folder.glob("*.done")):
                error.add_note(f"{output}: finished parts are kept; continue with --resume")
            else:
                journal.remove()
            raise
        journal.remove()


def run_missing_blocks(
    job: Job,
    function: Callable | None,
    scene: Scene,
    reader: SceneReader | CellReader | HaloReader,
    plan: WindowPlan,
    journal: Journal,
    run_blocks: RunBlocks | None,
    progress: bool,
) -> int:
    """Process the blocks that the journal lacks.

    Args:
        job: Functions that process the outputs.
        function: The function of windows; not called with ``run_blocks``.
        scene: The scene.
        reader: The open scene.
        plan: Its division into blocks.
        journal: Finished blocks.
        run_blocks: Runs the blocks in other processes; None for this one.
        progress: Show a progress bar on a terminal.

    Returns:
        The number of windows that were already finished.
    """
    missing = [block for block in plan.blocks if not journal.has(block.note)]
    resumed = len(plan.grid) - sum(len(block.windows(plan.grid)) for block in missing)
    bar = progress_bar(total=len(plan.grid), initial=resumed, unit="window", show=progress)
    # GDAL's default block cache is a share of the memory; a row of windows needs far less.
    with rasterio.Env(GDAL_CACHEMAX=job.cache_bytes(reader, plan)), bar:
        if run_blocks is None or not missing:
            move_windows(job, function, reader, plan, missing, journal, bar.update)
        else:
            run_blocks(job, scene, plan, missing, journal, bar.update)
    return resumed


@dataclass
class Step:
    """Consecutive windows of a block; ``images`` and ``valid`` are of the non-empty ones."""

    block: Block
    windows: list[tuple[Window, np.ndarray | None]]
    """Each with the mask of pixels to be mapped, None if there are none."""
    images: np.ndarray | None
    valid: np.ndarray | None
    last: bool
    """Whether it is the last step of the block."""
    ranges: list[list] = field(default_factory=list)
    """With the last step: :meth:`SceneReader.take_ranges` of the block, as lists."""


def move_windows(
    job: Job,
    function: Callable[[np.ndarray, np.ndarray], Any],
    reader: SceneReader | CellReader | HaloReader,
    plan: WindowPlan,
    blocks: Sequence[Block],
    journal: Journal,
    report: Callable[[int], None],
) -> None:
    """Read windows in one thread, call the function in this one, write outputs in a third.

    Args:
        job: Functions that process the outputs.
        function: Of images (B, C, window, window) and their validity (B, window, window).
        reader: The scene.
        plan: Its division into windows.
        blocks: Blocks to process.
        journal: Receives finished blocks.
        report: Called with the number of windows done.
    """
    writer = job.writer(plan, journal)
    steps = _read_steps(reader, plan, blocks)
    # Tasks of a stage run in order on its only thread and never wait for other stages, so that a
    # failure cannot cause a deadlock.
    read_stage = ThreadPoolExecutor(1, "read")
    write_stage = ThreadPoolExecutor(1, "write")
    written: deque = deque()
    try:
        reads = deque(read_stage.submit(next, steps, None) for _ in range(QUEUE_SIZE))
        while (step := reads.popleft().result()) is not None:
            reads.append(read_stage.submit(next, steps, None))
            result = None
            if step.images is not None:
                result = job.check(function(step.images, step.valid), len(step.images), plan)
            while len(written) >= QUEUE_SIZE or (written and written[0].done()):
                written.popleft().result()
            written.append(write_stage.submit(writer.consume, step, result))
            report(len(step.windows))
        for task in written:
            task.result()
    finally:
        read_stage.shutdown(cancel_futures=True)
        write_stage.shutdown(cancel_futures=True)
        writer.close()


def ranges_of(notes: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, ...]:
    """Return the range of the values of each file from the notes of all blocks."""
    files = zip(*(note["ranges"] for note in notes), strict=True)
    return tuple(merge_ranges([np.array(one) for one in file]) for file in files)


def _read_steps(
    reader: SceneReader | CellReader | HaloReader, plan: WindowPlan, blocks: Iterable[Block]
) -> Iterator[Step]:
    grid, size = plan.grid, plan.batch
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
        step = _step(block, windows, images, valid, size, last=True)
        step.ranges = [one.tolist() for one in reader.take_ranges()]
        yield step


def _step(block, windows, images, valid, size: int, last: bool) -> Step:
    if not images:
        return Step(block, windows, None, None, last)
    # Full batches only: the output of a model may depend on the batch size.
    fill = size - len(images)
    images = np.stack([*images, *images[-1:] * fill])
    return Step(block, windows, images, np.stack([*valid, *valid[-1:] * fill]), last)
