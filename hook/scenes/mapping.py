"""Mapping scenes of any size with a model."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hook.errors import ConfigError, SceneError
from hook.geo.staging import check_output, replaced_by, writing
from hook.geo.styles import check_classes
from hook.geo.vector import check_geojson, driver_of
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
from hook.scenes.blocks import Block
from hook.scenes.journal import Journal, interrupted, staging_folder
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
)
from hook.scenes.pipeline import (
    Job,
    RunBlocks,
    Scene,
    SceneReport,
    Step,
    WindowPlan,
    ranges_of,
    report_of_finished,
    run_missing_blocks,
    unfinished,
)
from hook.scenes.polygons import polygonize
from hook.scenes.reader import CellReader, SceneReader
from hook.scenes.request import MapRequest
from hook.scenes.stac import (
    ModelCard,
    WrittenLayer,
    add_vectors,
    is_own_item,
    item_of_map,
    write_stac_item,
)

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
DEFAULT_WINDOW = 512


@dataclass(frozen=True, kw_only=True)
class MapReport(SceneReport):
    """Result of :func:`map_scene`."""

    class_pixels: tuple[int, ...]
    """Valid pixels of each class."""


@dataclass(frozen=True, kw_only=True)
class LayerPlan(WindowPlan):
    """Division of a scene and the files to write, with ``rows`` as :class:`MapPlan` has it."""

    layers: tuple[Layer, ...]

    def fingerprint(self) -> dict[str, Any]:
        """Return what determines the bytes of the files, except scene and model."""
        options = {
            one.name: getattr(self, one.name)
            for one in dataclasses.fields(self)
            if one.name != "layers"
        }
        return {**options, "layers": [layer.describe() for layer in self.layers]}


@dataclass(frozen=True, kw_only=True)
class MapPlan(LayerPlan):
    """Division of a scene and layers of its map; the same in every process."""

    num_classes: int
    blend: str

    def rows(
        self, block: Block, emit: Callable[[RowBlock], None], emit_seam: Callable[[SeamRows], None]
    ) -> RowBlender:
        """Return what makes rows of the windows of a block."""
        return RowBlender(self.grid, self.num_classes, emit, self.blend, block, emit_seam)


def plan_map(
    request: MapRequest,
    *,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    cell: int | None = None,
) -> tuple[Scene, MapPlan]:
    """Plan a map: what to read, how to divide it and what to write.

    Args:
        request: Options; a ``window`` of None means 512 pixels.
        num_classes: Number of classes, K.
        class_names: K names.
        palette: K colours (red, green, blue).
        cell: For a model that returns one class per window, (B, K): side in pixels of the cell at
            the centre of a window that becomes one pixel of the map; ``overlap`` and ``blend`` are
            ignored. None for a model that returns a class per pixel.

    Raises:
        ConfigError: The file of polygons cannot be written.
        SceneError: The scene cannot be read or lacks a band, or an option is invalid.
    """
    names, colours = check_classes(num_classes, class_names, palette)
    window, overlap, blend = request.window or DEFAULT_WINDOW, request.overlap, request.blend
    scene = Scene.of(request, None if cell is None else (window, cell))
    options = dict(class_names=names, creation_options=request.creation_options)
    layers: list[Layer] = [
        ClassLayer(request.output, palette=colours, nodata=request.out_nodata, **options)
    ]
    if request.scores:
        # The map is last, so that it is never without its scores.
        layers.insert(0, ScoreLayer(request.scores_file, kinds=request.scores, **options))
    for layer in layers:
        if layer.output.suffix.lower() not in (".tif", ".tiff"):
            raise SceneError(
                f"{layer.output}: not a name for a GeoTIFF",
                expected="a name ending in .tif",
                remedy="use the suffix .tif",
            )
        check_output(layer.output, request.inputs)
    if cell is not None:
        window, overlap, blend = 1, 0, "mean"
    with scene.open() as reader:
        plan = MapPlan(
            height=reader.height,
            width=reader.width,
            window=window,
            overlap=overlap,
            batch_size=request.batch_size,
            block_windows=request.block_windows,
            num_classes=num_classes,
            blend=blend,
            layers=tuple(layers),
        )
        if request.vectors is not None:
            _check_vectors(request, reader.crs)
    blend_profile(plan.grid.window, plan.grid.overlap, blend)  # checks the options
    return scene, plan


def map_scene(
    predict: Predict | None,
    request: MapRequest,
    *,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    cell: int | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    run_blocks: RunBlocks | None = None,
    model: ModelCard | None = None,
) -> MapReport:
    """Map a whole scene.

    The map is a Cloud-Optimised GeoTIFF of class indexes with a colour table. Next to it are
    category names (``<output>.aux.xml``), a QGIS style (``<stem>.qml``) and a STAC Item
    (``<stem>.json``).

    One thread reads windows, the calling thread runs the model, a third blends and writes. Memory
    depends on the window, the batch size and the width of the scene, not on its height. Output
    files appear only when complete.

    The scene is mapped in blocks of windows, stored in ``.<output>.unfinished`` next to the output
    until all are finished. An interrupted run continues from there with ``resume``. The bytes of
    the outputs depend on the scene and the options only, not on interruptions, number of
    processes, time or folder.

    Args:
        predict: Called with windows (B, C, window, window) in native values and dtype, and their
            validity (B, window, window) bool, True where all bands are valid. B is constant; an
            incomplete batch repeats its last window. Returns class probabilities
            (B, K, window, window). Not called for windows without valid pixels.
        request: See :func:`plan_map`.
        num_classes: See :func:`plan_map`.
        class_names: See :func:`plan_map`.
        palette: See :func:`plan_map`.
        cell: See :func:`plan_map`.
        fingerprint: Determines the outputs of ``predict``, serialisable as JSON; a run with a
            different one cannot be resumed.
        run_blocks: Runs the blocks in other processes, see :data:`RunBlocks`; None for this one.
        model: Metadata of the model for the STAC Item, see
            :func:`hook.scenes.stac.write_stac_item`.

    Raises:
        SceneError: See :func:`plan_map`; or an output exists, scores have the wrong shape or are
            not finite, the run to resume had different settings, or writing fails.
        Exception: Whatever ``predict`` raises, unchanged.
    """
    begun = time.monotonic()
    scene, plan = plan_map(
        request, num_classes=num_classes, class_names=class_names, palette=palette, cell=cell
    )
    settings = {**scene.fingerprint(), **plan.fingerprint(), "model": dict(fingerprint or {})}
    further = _options_of_files(request)
    if report := report_of_finished(MapReport, request, {**settings, **further}):
        return report
    with scene.open() as reader, unfinished(request, settings, further) as (journal, files):
        geometry = SceneGeometry(reader.height, reader.width, reader.crs, reader.transform)
        item = request.output.with_suffix(".json")
        staged_item = files.add(item, is_own_item)
        staged = [layer.add_to(files) for layer in plan.layers]
        for layer in plan.layers:
            try_options(layer, geometry)
        resumed = run_missing_blocks(
            MAPPING, predict, scene, reader, plan, journal, run_blocks, request.progress
        )
        for block in plan.blocks[1:]:
            join_seams(journal, plan, block.index)
        done = []
        with progress_bar(total=len(plan.layers), unit="file", show=request.progress) as bar:
            for number, (layer, path) in enumerate(zip(plan.layers, staged, strict=True)):
                bar.set_description(f"writing {path.name}")
                parts = parts_of(journal, plan, number)
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
            times=request.times or reader.times,
            model=model,
        )
        files.commit()
        if request.vectors is not None:
            replace = request.overwrite or journal.continued
            _write_vectors(request, plan.layers[-1].class_names, replace)
        notes = [journal.read_json(block.note) for block in plan.blocks]
        report = MapReport(
            windows=len(plan.grid),
            empty_windows=sum(note["empty"] for note in notes),
            pixels=int(counts[:num_classes].sum()),
            class_pixels=tuple(counts[:num_classes].tolist()),
            seconds=time.monotonic() - begun,
            resumed_windows=resumed,
            ranges=ranges_of(notes),
        )
        polygons = [] if request.vectors is None else [request.vectors]
        journal.finish([*files.finals, *polygons], dataclasses.asdict(report))
    return report


def _options_of_files(request: MapRequest) -> dict[str, Any]:
    """Return the options of a map that do not concern its pixels."""
    folder = request.output.parent
    scores, vectors = (
        path and os.path.relpath(path, folder) for path in (request.scores_file, request.vectors)
    )
    return {
        "scores": scores,
        "vectors": vectors,
        "min_area": vectors and request.min_area,
        "simplify": vectors and request.simplify,
        "datetime": request.datetime,
    }


def _write_vectors(request: MapRequest, class_names: Sequence[str], overwrite: bool) -> None:
    """Write the polygons of a finished map, and add them to its Item."""
    # Scores of the polygons; entropy is not a score, because low is certain.
    confidence = {"probs", "margin"} & set(request.scores)
    polygonize(
        request.output,
        request.vectors,
        class_names=class_names,
        min_area=request.min_area,
        simplify=request.simplify,
        scores=request.scores_file if confidence else None,
        overwrite=overwrite,
        progress=request.progress,
        staging=staging_folder(request.output),
    )
    if item := item_of_map(request.output):
        add_vectors(item, request.vectors, staging_folder(request.output))


def _check_vectors(request: MapRequest, crs: Any) -> None:
    """Check the file of polygons before the scene is mapped."""
    path, output = request.vectors, request.output
    check_output(path, request.inputs, ConfigError)
    others = [output, output.with_suffix(".json"), output.with_suffix(".qml")]
    others += [] if request.scores_path is None else [request.scores_path]
    if os.path.realpath(path) in map(os.path.realpath, others):
        raise ConfigError(
            f"{path}: is a different file of this map",
            expected="a name for the polygons only; the map also has a .qml and .json",
            found=path.name,
            remedy="choose a different name for the vectors",
        )
    driver_of(path, error=ConfigError)
    if not path.parent.is_dir():
        raise ConfigError(
            f"{path} cannot be written",
            expected=f"an existing folder {path.parent}",
            found="none",
            remedy="create the folder or choose a different one",
        )
    # Replaced if a run is resumed; next to a map without one, they decide whether it has finished.
    begun = request.resume and (interrupted(output) or output.exists())
    existing = replaced_by([path], ConfigError)
    if existing and (path.is_dir() or not (request.overwrite or begun)):
        raise ConfigError(
            f"{existing[0]} {'is a folder' if path.is_dir() else 'exists already'}",
            expected="a new file",
            remedy="choose a different name or overwrite (--overwrite)",
        )
    check_geojson(path, crs, f"a scene ({request.input[0]})", ConfigError)


# ---------------------------------------------------------------------------------- blocks
class BlockWriter:
    """Makes rows of the outputs of windows and writes finished rows and seams to the journal.

    The owner of the journal also blends the seams of neighbours that are both finished.
    """

    def __init__(self, plan: LayerPlan, journal: Journal) -> None:
        self._plan, self._journal = plan, journal
        self._block: Block | None = None
        self._rows: Any = None
        self._files: list[PartFile] = []
        self._seams: dict[str, BinaryIO] = {}
        self._empty = 0

    def consume(self, step: Step, outputs: Iterable[Any] | None) -> None:
        """Add the outputs of the non-empty windows of a step."""
        if self._rows is None:
            self._begin(step.block)
        remaining = iter(() if outputs is None else outputs)
        for window, covered in step.windows:
            if covered is None:
                self._rows.skip(window)
                self._empty += 1
            else:
                self._rows.add(window, next(remaining), covered)
        if step.last:
            self._finish(step)

    def _begin(self, block: Block) -> None:
        plan = self._plan
        self._block, self._empty = block, 0
        rows = block.bottom - block.top
        self._names = [_part(block.index, number) for number in range(len(plan.layers))]
        if rows:
            for name, layer in zip(self._names, plan.layers, strict=True):
                path = self._journal.partial(name)
                self._files.append(PartFile(path, layer, rows, plan.width))
        self._rows = plan.rows(block, self._emit, self._emit_seam)

    def _emit(self, rows: RowBlock) -> None:
        for file, layer in zip(self._files, self._plan.layers, strict=True):
            file.write(layer.encode(rows))

    def _emit_seam(self, rows: SeamRows) -> None:
        side = "top" if rows.row_off < self._block.top else "bottom"
        if side not in self._seams:
            name = _seam(self._block.index, side)
            self._seams[side] = self._journal.partial(name).open("wb")
        records = np.empty(len(rows.state), _seam_row(self._plan))
        records["mean"] = rows.mean.transpose(1, 0, 2)
        records["weight"], records["state"] = rows.weight, rows.state
        with writing(self.seam_path(side)):
            self._seams[side].write(records.tobytes())  # tofile ignores errors of its buffer

    def seam_path(self, side: str) -> Path:
        """Return the path of the upper or lower seam of the block."""
        return self._journal.path(_seam(self._block.index, side))

    def _finish(self, step: Step) -> None:
        block = step.block
        self._rows.finish()
        names = list(self._names) if self._files else []
        for file in self._files:
            file.finish()
        for side, file in self._seams.items():
            with writing(self.seam_path(side)):
                file.close()
            names.append(_seam(block.index, side))
        self._journal.commit(names)
        note = {"empty": self._empty, "ranges": step.ranges, **self._rows.notes}
        self._journal.write_text(block.note, json.dumps(note))
        self._files, self._seams, self._rows = [], {}, None
        if self._journal.owned:
            join_seams(self._journal, self._plan, block.index)

    def close(self) -> None:
        """Close the files of an unfinished block."""
        for file in (*self._files, *self._seams.values()):
            file.close()


def check_scores(scores: Any, batch: int, plan: MapPlan) -> np.ndarray:
    """Check the shape of scores and copy them.

    Raises:
        SceneError: It is not (batch, num_classes, window, window), or, for one class per window,
            (batch, num_classes).
    """
    expected = (batch, plan.num_classes, plan.window, plan.window)
    if plan.window == 1 and getattr(scores, "shape", None) == expected[:2]:
        scores = np.reshape(scores, expected)  # one class per window
    found = getattr(scores, "shape", None)
    if found is None or tuple(found) != expected:
        raise SceneError(
            "the model's output for a batch of windows",
            expected=f"scores of shape {expected} (windows, classes, height, width)",
            found=type(scores).__name__ if found is None else f"shape {tuple(found)}",
            remedy="check num_classes and that the output has the resolution of the input",
        )
    # A copy, because the model may reuse its buffer before it is blended.
    return np.array(scores, np.float32)


# ---------------------------------------------------------------------------------- pieces
def _part(block: int, layer: int) -> str:
    return f"block{block:06d}.{layer}.tif"


def _seam_part(upper: int, layer: int) -> str:
    return f"seam{upper:06d}.{layer}.tif"


def _seam(block: int, side: str) -> str:
    return f"block{block:06d}.{side}.seam"


def _seam_row(plan: MapPlan) -> np.dtype:
    """Return the dtype of a row of a seam file."""
    k, width = plan.num_classes, plan.width
    return np.dtype(
        [("mean", "<f4", (k, width)), ("weight", "<f4", (width,)), ("state", "u1", (width,))]
    )


def _read_seam(path: Path, layout: np.dtype, first: int, count: int, row_off: int) -> SeamRows:
    rows = np.fromfile(path, layout, count, offset=first * layout.itemsize)
    return SeamRows(row_off, rows["mean"].transpose(1, 0, 2), rows["weight"], rows["state"])


def join_seams(journal: Journal, plan: LayerPlan, index: int) -> None:
    """Blend the rows that the finished block ``index`` shares with finished neighbours.

    Only one process at a time may do this in a journal.
    """
    blocks = plan.blocks
    for upper in (index - 1, index):
        if 0 <= upper < len(blocks) - 1:
            pair = blocks[upper : upper + 2]
            if all(journal.has(block.note) for block in pair):
                _join(journal, plan, *pair)


def _join(journal: Journal, plan: LayerPlan, upper: Block, lower: Block) -> None:
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


def parts_of(journal: Journal, plan: LayerPlan, number: int) -> list[Part]:
    """List the files of a layer, given by its number, from top to bottom."""
    parts = []
    for block in plan.blocks:
        if block.bottom > block.top:
            path = journal.path(_part(block.index, number))
            parts.append(Part(block.top, block.bottom - block.top, path))
        if block.stop > block.bottom:
            path = journal.path(_seam_part(block.index, number))
            parts.append(Part(block.bottom, block.stop - block.bottom, path))
    return parts


def cache_bytes(reader: SceneReader | CellReader, plan: LayerPlan) -> int:
    """Return the size of GDAL's block cache: a row of windows, later two rows of output blocks."""
    read = min(plan.window + reader.block_height, plan.height) * reader.row_bytes
    row_bytes = max(layer.count * np.dtype(layer.dtype).itemsize for layer in plan.layers)
    written = 2 * min(BLOCK_SIZE, plan.height) * plan.width * (row_bytes + 1)
    return int(np.clip(max(read, written), 16 << 20, 512 << 20))


MAPPING = Job(check_scores, BlockWriter, cache_bytes, join_seams)
"""Blocks of :func:`map_scene`."""
