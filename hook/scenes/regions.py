"""The tokens of a scene's windows as polygons with statistics and embeddings."""

import bisect
import dataclasses
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import rasterio
import shapely
from pyproj import CRS
from rasterio import features
from tqdm import tqdm

from hook.errors import SceneError
from hook.scenes.blocks import WINDOWS_PER_BLOCK, Block, BlockPlan
from hook.scenes.cluster import Job
from hook.scenes.grid import Window, WindowGrid
from hook.scenes.journal import Journal
from hook.scenes.layers import writing
from hook.scenes.mapping import RunBlocks, Scene, Step, move_windows
from hook.scenes.reader import AreaOfInterest, SceneReader
from hook.scenes.staging import StagedFiles
from hook.scenes.statistics import areas_m2, perimeters_m
from hook.scenes.vectors import (
    GEOMETRY,
    WRITE_ERRORS,
    Place,
    add_junctions,
    components,
    label,
    touching,
    without_clock,
    write_geoparquet,
    write_with_gdal,
)

FORMATS = {".parquet": "Parquet", ".gpkg": "GPKG"}
"""Endings of region files and GDAL's names of their formats."""

_NOTHING = -1
_OUTSIDE = -2
# Of a row group or batch: embeddings make rows long.
_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 20_000


class TokenBatch(NamedTuple):
    """What is known of the tokens of a batch of windows. Scores of one kind at most."""

    owners: np.ndarray
    """(B, h, w) integers: the token, from 0 to N - 1, that each pixel belongs to."""
    embeddings: np.ndarray
    """(B, N, D) real numbers."""
    token_scores: np.ndarray | None = None
    """(B, N, K) class probabilities of each token."""
    pixel_scores: np.ndarray | None = None
    """(B, K, h, w) class probabilities of each pixel."""


Tokenize = Callable[[np.ndarray, np.ndarray], TokenBatch]


@dataclass(frozen=True)
class RegionReport:
    """What :func:`extract_regions` did."""

    regions: int
    """Rows of the file."""
    pixels: int
    """Pixels with data, each of which lies in one region."""
    windows: int
    """Windows of the grid."""
    empty_windows: int
    """Windows without a valid pixel, which the model did not see."""
    seconds: float
    """Wall time."""
    resumed_windows: int = 0
    """Windows that an interrupted run had done already."""


@dataclass(frozen=True)
class RegionPlan:
    """How a scene is cut into regions; the same in every process."""

    height: int
    width: int
    window: int
    overlap: float
    batch_size: int
    block_windows: int
    embed_dims: int
    bands: tuple[str, ...]
    class_names: tuple[str, ...] | None
    explode: bool
    merge: float | None

    @property
    def grid(self) -> WindowGrid:
        """The windows."""
        return WindowGrid(self.height, self.width, self.window, self.overlap)

    @property
    def blocks(self) -> BlockPlan:
        """The groups of windows."""
        return BlockPlan(self.grid, self.block_windows)

    @property
    def num_classes(self) -> int:
        """Number of classes K, 0 where there are none."""
        return len(self.class_names or ())


def extract_regions(
    tokenize: Tokenize | None,
    input: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    embed_dims: int,
    class_names: Sequence[str] | None = None,
    indexes: Sequence[int] | None = None,
    band_names: Sequence[str] | None = None,
    window: int = 224,
    overlap: float = 0,
    batch_size: int = 4,
    nodata: float | str | None = None,
    aoi: AreaOfInterest | None = None,
    explode: bool = False,
    merge: float | None = None,
    layer: str = "regions",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    fingerprint: Mapping[str, Any] | None = None,
    run_blocks: RunBlocks | None = None,
    block_windows: int = WINDOWS_PER_BLOCK,
) -> RegionReport:
    """Write the regions of the tokens of a whole scene, with statistics and embeddings.

    A window's pixels belong to its tokens; each token's pixels make one region. Where windows
    overlap, only their cores count (:meth:`hook.scenes.WindowGrid.core`), so that every pixel
    with data lies in exactly one region, and what is nodata in none. Edges follow pixel edges, and
    neighbours have the same vertices along their common edge.

    Fields: ``window_id`` (number of the window in row-major order), ``token_id``, ``class_id``,
    ``class_name`` and ``score`` (with ``class_names``), ``pixels``, ``area_m2`` and
    ``perimeter_m`` (:func:`hook.scenes.statistics.areas_m2`, ``perimeters_m``; null without a
    CRS), ``mean_<band>`` and ``std_<band>`` (of the population, native units, over the pixels
    where all bands are valid; null where none is), ``embedding``, and the geometry: multipolygons,
    or with ``explode`` polygons. With scores of tokens the class is that of the largest score;
    with scores of pixels the most frequent one among the region's pixels, the lower index of
    equals, and ``score`` is its mean probability over the region.

    Merging joins regions of neighbouring windows that share an edge along the seam where the
    cosine of their embeddings is above the threshold, and what is joined through others: regions
    of many parts, which touch many, can so become one across the scene (``explode``). A joined
    region has the window and token of its first one, the mean of the embeddings and of the
    tokens' scores weighted by pixels, and the statistics of all its pixels.

    Rows of windows are finished one by one. Memory depends on the window, the batch and the
    scene's width, not on its height: 4 bytes per pixel of a row of windows for its labels, the
    polygons being traced, and the regions of two rows of windows while the file is written. With
    ``merge`` the regions that may go on in the next row are held too, all their polygons
    included; one that joins all the scene is held as a whole.

    Blocks of windows wait in ``.<output>.unfinished`` beside the output, with the rules of
    :func:`hook.scenes.map_scene` for interruption, ``resume`` and several processes: the bytes are
    always the same, and neither time nor place of the run is in the file.

    Args:
        tokenize: Called with windows (B, C, window, window) in native values and dtype, and their
            validity (B, window, window) bool. B is always the same; a batch that lacks windows
            repeats its last one. The model is asked only about windows with a valid pixel.
        input: See :func:`hook.scenes.mapping.plan_scene`.
        output: ``.parquet``: GeoParquet 1.1, ``embedding`` a fixed-size list of D float32; or
            ``.gpkg``: GeoPackage, ``embedding`` a BLOB of D little-endian float32, as the layer's
            metadata says.
        embed_dims: Width of the embeddings, D.
        class_names: K names, where ``tokenize`` gives scores.
        indexes: 1-based bands in the model's order; all but alpha if None.
        band_names: Names of these bands in the names of fields; ``1``, ``2``, ... if None.
        window: Side of the model's window in pixels. A smaller scene is extended by reflection.
        overlap: Of neighbouring windows, a fraction of the window below 1 or whole pixels.
        batch_size: Windows per call of the model.
        nodata: Replaces the scene's nodata value: a number, ``"nan"``, or None to keep it.
        aoi: Area of interest: only what lies inside is read.
        explode: Make every 4-connected part of a token a region of its own.
        merge: Cosine above which regions are joined, from -1 to 1; None: none are.
        layer: Name of the layer in a GeoPackage.
        resume: Go on with what an interrupted run left; without one, start.
        overwrite: Replace an output that exists, and, without ``resume``, what an interrupted run
            left.
        progress: Show a progress bar (on a terminal).
        fingerprint: What decides the answers of ``tokenize``, as JSON can hold it.
        run_blocks: Runs the blocks elsewhere, see :func:`hook.scenes.cluster.on_cluster` with
            :data:`REGIONS`; None: here.
        block_windows: Least number of windows of a block.

    Returns:
        What was done.

    Raises:
        SceneError: The scene cannot be read or lacks a band, an option is impossible, the output
            exists or cannot be written, the model's answer has another shape or is not finite, or
            the run to resume was another one.
        Exception: Whatever ``tokenize`` raises, unchanged.
    """
    begun = time.monotonic()
    output = Path(output)
    inputs = (input,) if isinstance(input, str | Path) else tuple(input)
    driver = _check_output(output, inputs)
    if batch_size != int(batch_size) or batch_size < 1:
        raise SceneError("batch_size", expected="1 or more", found=batch_size)
    if merge is not None and not -1 <= merge <= 1:
        raise SceneError("merge threshold", expected="a cosine from -1 to 1", found=merge)
    scene = Scene(
        tuple(str(path) for path in inputs),
        None if indexes is None else tuple(indexes),
        nodata,
        aoi,
    )
    with scene.open() as reader:
        plan = RegionPlan(
            *(reader.height, reader.width, window, overlap, int(batch_size), block_windows),
            embed_dims=int(embed_dims),
            bands=_check_bands(band_names, len(reader.indexes)),
            class_names=None if class_names is None else tuple(map(str, class_names)),
            explode=bool(explode),
            merge=None if merge is None else float(merge),
        )
        place = Place(reader.crs and CRS.from_user_input(reader.crs), reader.transform)
        blocks = plan.blocks
        journal = Journal(
            output,
            {
                **scene.fingerprint(),
                **dataclasses.asdict(plan),
                "layer": layer,
                "model": dict(fingerprint or {}),
            },
            resume,
            overwrite,
        )
        try:
            with StagedFiles(overwrite or resume, f".{output.name}.finished") as files:
                staged = files.add(output)
                missing = [block for block in blocks if not journal.has(_done(block))]
                resumed = len(plan.grid) - sum(len(b.windows(plan.grid)) for b in missing)
                bar = tqdm(
                    total=len(plan.grid),
                    initial=resumed,
                    unit="window",
                    disable=None if progress else True,
                )
                with rasterio.Env(GDAL_CACHEMAX=_cache_bytes(reader, plan)), bar:
                    if run_blocks is None or not missing:
                        _run_blocks(tokenize, reader, plan, missing, journal, bar.update)
                    else:
                        run_blocks(scene, plan, missing, journal, bar.update)
                strips = tqdm(
                    _strips(journal, plan),
                    "writing regions",
                    len(plan.grid.row_offs),
                    unit="row",
                    disable=None if progress else True,
                )
                with strips:
                    count = _write(strips, plan, place, staged, output, driver, layer)
                files.commit()
        except BaseException:
            if not any(journal.folder.glob("*.done")):
                journal.remove()  # there is nothing to go on with
            raise
        done = [journal.read_json(_done(block)) for block in blocks]
        journal.remove()
    if place.crs is None:
        warnings.warn(
            f"{inputs[0]}: no CRS, so its regions have no area and no perimeter", stacklevel=2
        )
    return RegionReport(
        regions=count,
        pixels=sum(block["pixels"] for block in done),
        windows=len(plan.grid),
        empty_windows=sum(block["empty"] for block in done),
        seconds=time.monotonic() - begun,
        resumed_windows=resumed,
    )


def _check_output(output: Path, inputs: Sequence[str | Path]) -> str:
    """Refuse names that are no output's; give the format."""
    driver = FORMATS.get(output.suffix.lower())
    if driver is None:
        raise SceneError(
            f"{output}: unknown format of regions",
            expected=f"a name ending in {' or '.join(FORMATS)}",
            found=output.suffix or "no ending",
        )
    for path in inputs:
        if output.exists() and os.path.exists(path) and output.samefile(path):
            raise SceneError(
                f"{output}: is the input", remedy="give the output another name than the scene"
            )
    return driver


def _check_bands(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    names = tuple(map(str, names or range(1, count + 1)))
    # Fields of a GeoPackage are told apart without regard to case.
    if len(names) != count or len({name.casefold() for name in names}) < count:
        raise SceneError(
            "band_names", expected=f"{count} names, one per band, all different", found=names
        )
    return names


# ---------------------------------------------------------------------------------- windows
def _run_blocks(
    tokenize: Tokenize,
    reader: SceneReader,
    plan: RegionPlan,
    blocks: Sequence[Block],
    journal: Journal,
    report: Callable[[int], None],
) -> None:
    """Move the windows of some blocks through reader and model into the journal."""

    def answer(images: np.ndarray, valid: np.ndarray) -> TokenBatch:
        return _check_answer(tokenize(images, valid), len(images), plan)

    move_windows(answer, reader, plan, blocks, _RegionWriter(plan, journal), report)


def _nothing_to_join(journal: Journal, plan: RegionPlan, index: int) -> None:
    """Seams are seen to when the file is written, from top to bottom."""


def _cache_bytes(reader: SceneReader, plan: RegionPlan) -> int:
    """Give the size of GDAL's block cache: a row of windows."""
    rows = min(plan.window + 2 * reader.block_height, plan.height)
    return int(np.clip(rows * reader.row_bytes, 16 << 20, 512 << 20))


REGIONS = Job(_run_blocks, _nothing_to_join, _cache_bytes)
"""Blocks of :func:`extract_regions` for the workers of a cluster."""


def _check_answer(answer: TokenBatch, batch: int, plan: RegionPlan) -> TokenBatch:
    """Refuse a model's answer of another shape or with impossible values; copy it."""
    owners, embeddings, *scores = (None if a is None else np.asarray(a) for a in answer)
    side, k = plan.window, plan.num_classes
    number = embeddings.shape[1] if embeddings.ndim == 3 else 0
    wanted = [
        ("owners", owners, (batch, side, side)),
        ("embeddings", embeddings, (batch, max(number, 1), plan.embed_dims)),
        ("token_scores", scores[0], (batch, number, k)),
        ("pixel_scores", scores[1], (batch, k, side, side)),
    ]
    for name, array, shape in wanted:
        if array is not None and array.shape != shape:
            raise SceneError(
                f"the model's answer to a batch of windows: {name}",
                expected=f"shape {shape}",
                found=f"shape {array.shape}",
                remedy="check embed_dims and class_names, and that the model answers at the "
                "input's resolution",
            )
        if array is not None and name != "owners" and not np.isfinite(array).all():
            raise SceneError(
                f"the model's answer to a batch of windows: {name}",
                expected="finite numbers",
                found="NaN or infinity",
                remedy="check the model's weights and the scene's values",
            )
    given = sum(array is not None for array in scores)
    if given != (plan.class_names is not None):
        raise SceneError(
            "the model's answer to a batch of windows",
            expected="scores of tokens or of pixels with class_names, none without",
            found=f"{given} kinds of scores, {k} class names",
        )
    if owners.min() < 0 or owners.max() >= number:
        raise SceneError(
            "the model's answer to a batch of windows: owners",
            expected=f"0 to {number - 1}",
            found=f"{owners.min()} to {owners.max()}",
        )
    # Copies, because the model may use its buffers again before these are looked at.
    return TokenBatch(
        np.array(owners, np.int32),
        np.array(embeddings, np.float32),
        *(None if array is None else np.array(array, np.float32) for array in scores),
    )


class _Regions(NamedTuple):
    """Regions in columns."""

    windows: np.ndarray
    """(n,) int64: number of the window."""
    tokens: np.ndarray
    """(n,) int32."""
    pixels: np.ndarray
    """(n,) int64."""
    counts: np.ndarray
    """(n,) int64: pixels where all bands are valid."""
    means: np.ndarray
    """(n, C) float64: of these, 0 where there are none."""
    squares: np.ndarray
    """(n, C) float64: sums of squared differences from the mean."""
    votes: np.ndarray
    """(n, K) int64: pixels of each class; 0 with scores of tokens."""
    scores: np.ndarray
    """(n, K) float64: sums of probabilities over all pixels."""
    embeddings: np.ndarray
    """(n, D)."""
    polygons: np.ndarray
    """(n,) shapely geometries in pixel coordinates (column, row)."""

    def take(self, index: np.ndarray | slice) -> "_Regions":
        """Some of the regions."""
        return _Regions(*(column[index] for column in self))

    @staticmethod
    def joined(parts: Sequence["_Regions"]) -> "_Regions":
        """Tables below each other."""
        return _Regions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class _Strip(NamedTuple):
    """The regions of one row of windows."""

    first_row: int
    height: int
    regions: _Regions
    top: np.ndarray
    """(width,) int32: which region each pixel of the first row lies in, -1 for none."""
    bottom: np.ndarray
    """(width,) int32: of the last row."""
    pairs: np.ndarray
    """(m, 2) int64: regions that share an edge along a seam of windows; only for merging."""


class _RegionWriter:
    """Makes regions of the answers to windows and writes rows of windows to the journal."""

    def __init__(self, plan: RegionPlan, journal: Journal) -> None:
        self._plan, self._journal, self._grid = plan, journal, plan.grid
        self._begin_block()

    def _begin_block(self) -> None:
        self._row: int | None = None
        self._labels: np.ndarray | None = None
        self._parts: list[_Regions] = []
        self._names: list[str] = []
        self._empty = self._pixels = 0

    def consume(self, step: Step, answer: TokenBatch | None) -> None:
        """Take the windows of a step."""
        number = 0
        for window, covered in step.windows:
            row = bisect.bisect_left(self._grid.row_offs, window.row_off)
            if row != self._row:
                self._finish_row()
                self._row = row
                core = self._grid.core(window)
                self._labels = np.full((core.height, self._grid.width), _NOTHING, np.int32)
            if covered is None:
                self._empty += 1
                continue
            one = TokenBatch(*(None if a is None else a[number] for a in answer))
            self._add(window, covered, step.images[number], step.valid[number], one)
            number += 1
        if step.last:
            self._finish_row()
            self._journal.commit(self._names)
            done = {"empty": self._empty, "pixels": self._pixels}
            self._journal.write_text(_done(step.block), json.dumps(done))
            self._begin_block()

    def _add(
        self,
        window: Window,
        covered: np.ndarray,
        image: np.ndarray,
        valid: np.ndarray,
        answer: TokenBatch,
    ) -> None:
        """Take one window; ``answer`` is what is known of it, without the axis of the batch."""
        core = self._grid.core(window)
        top, left = core.row_off - window.row_off, core.col_off - window.col_off
        part = np.s_[..., top : top + core.height, left : left + core.width]
        inside = covered[part]
        if not inside.any():
            return
        labels = np.where(inside, answer.owners[part], np.int32(_NOTHING))
        labels, tokens = _number_regions(labels, self._plan.explode)
        count, own = len(tokens), labels[inside]
        pixels = np.bincount(own, minlength=count)
        regions = _Regions(
            np.full(count, self._number(window), np.int64),
            tokens.astype(np.int32),
            pixels,
            *_measure(image[part], inside & valid[part], labels, count),
            *self._count_classes(answer, part, inside, own, tokens, pixels),
            answer.embeddings[tokens],
            np.empty(count, object),
        )
        base = sum(len(earlier.tokens) for earlier in self._parts)
        self._parts.append(regions)
        target = self._labels[:, core.col_off : core.col_off + core.width]
        target[inside] = own + base
        self._pixels += len(own)

    def _number(self, window: Window) -> int:
        """Number of a window in row-major order."""
        return self._row * len(self._grid.col_offs) + bisect.bisect_left(
            self._grid.col_offs, window.col_off
        )

    def _count_classes(self, answer, part, inside, own, tokens, pixels) -> tuple:
        """Votes and sums of probabilities (n, K) of the regions of a window."""
        count, k = len(tokens), self._plan.num_classes
        votes, sums = np.zeros((count, k), np.int64), np.zeros((count, k))
        if answer.token_scores is not None:
            sums = answer.token_scores[tokens].astype(np.float64) * pixels[:, np.newaxis]
        elif answer.pixel_scores is not None:
            scores = answer.pixel_scores[part][:, inside]  # K P
            votes = np.bincount(own * k + scores.argmax(axis=0), minlength=count * k)
            votes = votes.reshape(count, k)
            for number, band in enumerate(scores):
                sums[:, number] = np.bincount(own, band, minlength=count)
        return votes, sums

    def _finish_row(self) -> None:
        """Trace the regions of a row of windows and write it."""
        if self._row is None:
            return
        labels, plan = self._labels, self._plan
        if self._parts:
            regions = _Regions.joined(self._parts)
        else:
            c, k, d = len(plan.bands), plan.num_classes, plan.embed_dims
            shapes = [(0,)] * 4 + [(0, c)] * 2 + [(0, k)] * 2 + [(0, d)]
            kinds = ("i8", "i4", "i8", "i8", "f8", "f8", "i8", "f8", "f4")
            columns = (np.zeros(s, kind) for s, kind in zip(shapes, kinds, strict=True))
            regions = _Regions(*columns, np.empty(0, object))
        first_row = self._grid.core(self._grid[self._row * len(self._grid.col_offs)]).row_off
        polygons = _trace(labels, len(regions.tokens), first_row, plan.explode)
        pairs = np.empty((0, 2), np.int64)
        if plan.merge is not None:
            cores = (self._grid.core(Window(0, col, 0, 0)) for col in self._grid.col_offs[1:])
            seams = np.array([core.col_off for core in cores], np.int64)
            pairs = touching(labels[:, seams - 1], labels[:, seams])
        name = _strip_name(self._row)
        strip = _Strip(first_row, len(labels), regions, labels[0], labels[-1], pairs)
        path = self._journal.path(name)
        with writing(path), self._journal.partial(name).open("wb") as file:
            _save_strip(file, strip._replace(regions=regions._replace(polygons=polygons)))
        self._names.append(name)
        self._row, self._labels, self._parts = None, None, []

    def close(self) -> None:
        """Nothing is held open between rows of windows."""


def _number_regions(labels: np.ndarray, explode: bool) -> tuple[np.ndarray, np.ndarray]:
    """Number the regions of a window, by token, parts of one in the order of first pixels.

    Args:
        labels: (h, w) int32 tokens, -1 for none.
        explode: Number the 4-connected parts of tokens.

    Returns:
        (h, w) int32 numbers, -1 for none; and (n,) the tokens of the regions.
    """
    inside = labels >= 0
    if not explode:
        tokens, numbers = np.unique(labels[inside], return_inverse=True)
    else:
        parts, count = label(labels)
        tokens = np.empty(count, np.int64)
        tokens[parts[inside]] = labels[inside]
        order = np.argsort(tokens, kind="stable")
        ranks = np.empty(count, np.int64)
        ranks[order] = np.arange(count)
        tokens, numbers = tokens[order], ranks[parts[inside]]
    found = np.full(labels.shape, _NOTHING, np.int32)
    found[inside] = numbers
    return found, tokens


def _measure(
    image: np.ndarray, known: np.ndarray, labels: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure the bands of regions.

    Args:
        image: (C, h, w) native values.
        known: (h, w) bool, pixels that count.
        labels: (h, w) numbers of regions where pixels count.
        count: Number of regions n.

    Returns:
        (n,) pixels that count, (n, C) means and (n, C) sums of squared differences from these.
    """
    own = labels[known]
    counts = np.bincount(own, minlength=count)
    means, squares = np.zeros((2, count, len(image)))
    for number, band in enumerate(image):
        values = band[known].astype(np.float64)
        sums = np.bincount(own, values, minlength=count)
        means[:, number] = np.divide(sums, counts, out=np.zeros(count), where=counts > 0)
        # Twice through the values: a sum of squares would lose the digits of a small spread.
        values -= means[own, number]
        squares[:, number] = np.bincount(own, values * values, minlength=count)
    return counts, means, squares


def _trace(labels: np.ndarray, count: int, first_row: int, explode: bool) -> np.ndarray:
    """Trace the regions of a row of windows.

    Args:
        labels: (h, width) int32 numbers of regions, -1 for none.
        count: Number of regions n.
        first_row: Row of the scene that ``labels`` begin with.
        explode: Each region is one polygon.

    Returns:
        (n,) multipolygons, or polygons with ``explode``, in pixel coordinates of the scene. Along
        the upper and lower edge they have their own corners only, not those of what is beyond.
    """
    if not count:
        return np.empty(0, object)
    found = [
        (int(number), shapely.geometry.shape(geometry))
        for geometry, number in features.shapes(labels, mask=labels >= 0, connectivity=4)
    ]
    framed = np.full((labels.shape[0] + 2, labels.shape[1] + 2), _OUTSIDE, np.int32)
    framed[1:-1, 1:-1] = labels
    pieces = np.empty(len(found), object)
    pieces[:] = [polygon for _, polygon in found]
    pieces, _ = add_junctions(pieces, framed)
    pieces = shapely.normalize(shapely.transform(pieces, lambda points: points + [0, first_row]))
    numbers = np.array([number for number, _ in found])
    order = np.argsort(numbers, kind="stable")
    if explode:
        return pieces[order]
    return shapely.normalize(shapely.multipolygons(pieces[order], indices=numbers[order]))


# ---------------------------------------------------------------------------------- pieces
def _done(block: Block) -> str:
    return f"block{block.index:06d}.done"


def _strip_name(row: int) -> str:
    return f"row{row:06d}.npz"


def _save_strip(file, strip: _Strip) -> None:
    """Write a row of windows, polygons as arrays of corners, which are whole numbers."""
    columns = strip.regions._asdict()
    arrays = strip._asdict() | columns
    del arrays["regions"], arrays["polygons"]
    if len(polygons := columns["polygons"]):
        kind, corners, offsets = shapely.to_ragged_array(polygons)
        arrays["corners"], arrays["kind"] = corners.astype(np.int32), kind.value
        arrays |= {f"offsets{number}": values for number, values in enumerate(offsets)}
    np.savez(file, **arrays)


def _load_strip(path: Path) -> _Strip:
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError) as error:
        raise SceneError(
            f"{path}: cannot be read",
            found=error,
            remedy="start again without what the interrupted run left (--overwrite)",
        ) from error
    polygons = np.empty(0, object)
    if "kind" in arrays:
        offsets = [arrays[name] for name in sorted(arrays) if name.startswith("offsets")]
        polygons = shapely.from_ragged_array(
            shapely.GeometryType(int(arrays["kind"])),
            arrays["corners"].astype(np.float64),
            tuple(offsets),
        )
    columns = [arrays[name] for name in _Regions._fields[:-1]]
    return _Strip(
        int(arrays["first_row"]),
        int(arrays["height"]),
        _Regions(*columns, polygons),
        *(arrays[name] for name in _Strip._fields[3:]),
    )


def _strips(journal: Journal, plan: RegionPlan) -> Iterator[_Strip]:
    """Read the rows of windows, with the vertices that neighbours above and below ask for."""
    above, strip = None, _load_strip(journal.path(_strip_name(0)))
    for row in range(len(plan.grid.row_offs)):
        last = row + 1 == len(plan.grid.row_offs)
        following = None if last else _load_strip(journal.path(_strip_name(row + 1)))
        polygons = strip.regions.polygons
        if above is not None:
            polygons = _insert_vertices(polygons, strip.first_row, _changes(above))
        if following is not None:
            below = strip.first_row + strip.height
            polygons = _insert_vertices(polygons, below, _changes(following.top))
        above = strip.bottom
        yield strip._replace(regions=strip.regions._replace(polygons=polygons))
        strip = following


def _changes(row: np.ndarray) -> np.ndarray:
    """Columns of the edges between unlike pixels of a row."""
    return np.flatnonzero(row[1:] != row[:-1]) + 1.0


def _insert_vertices(polygons: np.ndarray, row: int, columns: np.ndarray) -> np.ndarray:
    """Add vertices to the edges that lie on a line between two rows of pixels.

    Args:
        polygons: (n,) geometries of one type in pixel coordinates.
        row: The line.
        columns: Where on it, in ascending order.
    """
    if not len(polygons) or not len(columns):
        return polygons
    kind, points, (rings, *outer) = shapely.to_ragged_array(polygons)
    on_line = np.zeros(len(points), bool)
    on_line[:-1] = (points[:-1, 1] == row) & (points[1:, 1] == row)
    on_line[rings[1:] - 1] = False  # a ring ends; what follows is another
    start = points[:, 0]
    end = np.append(start[1:], 0)
    first = np.searchsorted(columns, np.minimum(start, end), side="right")
    stop = np.searchsorted(columns, np.maximum(start, end), side="left")
    number = np.where(on_line, stop - first, 0).clip(min=0)
    edge = np.repeat(np.arange(len(points)), number)
    before = np.concatenate([[0], np.cumsum(number)])
    along = np.arange(len(edge)) - before[edge]
    index = np.where(end[edge] > start[edge], first[edge] + along, stop[edge] - 1 - along)
    new = np.column_stack([columns[index], np.full(len(index), float(row))])
    points = np.insert(points, edge + 1, new, axis=0)
    return shapely.from_ragged_array(kind, points, (rings + before[rings], *outer))


# ---------------------------------------------------------------------------------- merging
class _Merger:
    """Joins regions of neighbouring windows, row of windows by row of windows.

    Args:
        threshold: Cosine of embeddings above which neighbours are joined.
        explode: Regions are polygons, not multipolygons.
    """

    def __init__(self, threshold: float, explode: bool) -> None:
        self._threshold, self._explode = threshold, explode
        self._above: _Strip | None = None
        # Regions that may go on below, and the polygons of each, which are joined at the end.
        self._open: _Regions | None = None
        self._pieces: list[list[shapely.Geometry]] = []
        # Which of them each region of the row above belongs to.
        self._places = np.empty(0, np.int64)

    def add(self, strip: _Strip, last: bool) -> _Regions:
        """Take the next row of windows.

        Args:
            strip: The row.
            last: There is none below it.

        Returns:
            The regions that end in it, in the order of their first windows and tokens.
        """
        new = strip.regions._replace(embeddings=strip.regions.embeddings.astype(np.float64))
        held = 0 if self._open is None else len(self._open.tokens)
        links = [self._alike(new.embeddings, new.embeddings, strip.pairs) + held]
        if self._above is not None:
            pairs = _vertical_pairs(self._above.bottom, strip.top)
            above = self._above.regions.embeddings.astype(np.float64)
            pairs = self._alike(above, new.embeddings, pairs)
            links.append(np.column_stack([self._places[pairs[:, 0]], pairs[:, 1] + held]))
        table = new if self._open is None else _Regions.joined([self._open, new])
        links = np.concatenate(links)
        parts = components(len(table.tokens), links[:, 0], links[:, 1])
        pieces: list[list[shapely.Geometry]] = [[] for _ in range(parts.max(initial=-1) + 1)]
        added = ([polygon] for polygon in new.polygons)
        for part, polygons in zip(parts.tolist(), [*self._pieces, *added], strict=True):
            # Longer lists stay, or a region of many rows would be copied in each of them.
            short, long = sorted((pieces[part], polygons), key=len)
            long += short
            pieces[part] = long
        merged = _merge(table, parts, len(pieces))
        goes_on = np.zeros(len(pieces), bool)
        if not last:
            goes_on[parts[held + np.unique(strip.bottom[strip.bottom >= 0])]] = True
        ended = merged.take(~goes_on)
        for number, part in enumerate(np.flatnonzero(~goes_on).tolist()):
            ended.polygons[number] = _union(pieces[part], self._explode)
        self._open = merged.take(goes_on)
        self._pieces = [pieces[part] for part in np.flatnonzero(goes_on).tolist()]
        self._places = (np.cumsum(goes_on) - 1)[parts[held:]]
        self._above = strip
        return ended

    def _alike(self, first: np.ndarray, second: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Those pairs (m, 2) of rows of two tables of embeddings that agree."""
        one, other = first[pairs[:, 0]], second[pairs[:, 1]]
        lengths = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
        cosines = np.divide(
            (one * other).sum(axis=1), lengths, out=np.zeros(len(pairs)), where=lengths > 0
        )
        return pairs[cosines > self._threshold]


def _vertical_pairs(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Pairs (m, 2) of regions that share an edge between two rows of pixels."""
    both = (above >= 0) & (below >= 0)
    return np.unique(np.column_stack([above[both], below[both]]).astype(np.int64), axis=0)


def _merge(table: _Regions, parts: np.ndarray, count: int) -> _Regions:
    """Join the rows of a table that are parts of one region; polygons are not joined.

    Args:
        table: n rows.
        parts: (n,) which region each row belongs to, numbered in the order of their first rows.
        count: Number of regions.
    """
    _, first, sizes = np.unique(parts, return_index=True, return_counts=True)
    merged = table.take(first)  # what stands alone stays as it is, to the last digit
    joined = np.flatnonzero(sizes > 1)
    if not len(joined):
        return merged._replace(polygons=np.empty(count, object))
    numbers = np.full(count, -1)
    numbers[joined] = np.arange(len(joined))
    rows = np.flatnonzero(numbers[parts] >= 0)
    group = numbers[parts[rows]]
    some = table.take(rows)

    def total(values: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(joined), *values.shape[1:]), values.dtype)
        np.add.at(sums, group, values)  # in the order of the rows
        return sums

    pixels, counts = total(some.pixels), total(some.counts)
    weights = some.counts[:, np.newaxis]
    means = total(some.means * weights) / np.maximum(counts, 1)[:, np.newaxis]
    # Of all pixels: the spread within the parts, and that of the parts' means.
    squares = total(some.squares + weights * (some.means - means[group]) ** 2)
    embeddings = total(some.embeddings * some.pixels[:, np.newaxis]) / pixels[:, np.newaxis]
    for column, values in (
        (merged.pixels, pixels),
        (merged.counts, counts),
        (merged.means, means),
        (merged.squares, squares),
        (merged.votes, total(some.votes)),
        (merged.scores, total(some.scores)),
        (merged.embeddings, embeddings),
    ):
        column[joined] = values
    return merged._replace(polygons=np.empty(count, object))


def _union(pieces: list[shapely.Geometry], explode: bool) -> shapely.Geometry:
    """Join polygons of a coverage into one geometry of the layer's type."""
    if len(pieces) == 1:
        return pieces[0]
    union = shapely.coverage_union_all(shapely.get_parts(pieces))
    if not explode and union.geom_type == "Polygon":
        union = shapely.MultiPolygon([union])
    return shapely.normalize(union)


# ---------------------------------------------------------------------------------- file
def _write(
    strips: Iterator[_Strip],
    plan: RegionPlan,
    place: Place,
    staged: Path,
    output: Path,
    driver: str,
    layer: str,
) -> int:
    """Write the file; return the number of regions."""
    schema = _schema(plan, driver)
    kind = "Polygon" if plan.explode else "MultiPolygon"
    tables = _tables(_finished(strips, plan), plan, place, schema)
    try:
        if driver == "Parquet":
            return write_geoparquet(tables, schema, staged, place, kind)
        notes = {
            "embedding": f"BLOB of {plan.embed_dims} little-endian float32",
            "embedding_dims": str(plan.embed_dims),
        }
        with without_clock():
            return write_with_gdal(tables, schema, staged, driver, layer, place, kind, notes)
    except WRITE_ERRORS as error:
        raise SceneError(
            f"{output}: cannot be written",
            found=error,
            remedy="check the free space of the disk and the folder's permissions",
        ) from error


def _finished(strips: Iterator[_Strip], plan: RegionPlan) -> Iterator[_Regions]:
    """Yield regions as they are complete."""
    if plan.merge is None:
        yield from (strip.regions for strip in strips)
        return
    merger, bottom = _Merger(plan.merge, plan.explode), plan.height
    for strip in strips:
        yield merger.add(strip, strip.first_row + strip.height == bottom)


def _schema(plan: RegionPlan, driver: str) -> pa.Schema:
    dims = plan.embed_dims
    fields = [("window_id", pa.int64()), ("token_id", pa.int32())]
    if plan.class_names is not None:
        fields += [("class_id", pa.int32()), ("class_name", pa.string()), ("score", pa.float64())]
    fields += [("pixels", pa.int64()), ("area_m2", pa.float64()), ("perimeter_m", pa.float64())]
    fields += [(f"{kind}_{b}", pa.float64()) for b in plan.bands for kind in ("mean", "std")]
    # Formats of GDAL's have no lists of numbers that all programs read.
    vector = pa.list_(pa.float32(), dims) if driver == "Parquet" else pa.binary()
    return pa.schema([*fields, ("embedding", vector), (GEOMETRY, pa.binary())])


def _tables(
    regions: Iterator[_Regions], plan: RegionPlan, place: Place, schema: pa.Schema
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Yield tables and the bounds (n, 4) of their geometries."""
    a, b, c, d, e, f = place.transform[:6]

    def to_crs(corners: np.ndarray) -> np.ndarray:
        col, row = corners.T
        return np.column_stack([a * col + b * row + c, d * col + e * row + f])

    for part in _batches(regions, plan):
        polygons = shapely.transform(part.polygons, to_crs)
        columns = [pa.array(part.windows), pa.array(part.tokens)]
        if plan.class_names is not None:
            voted = part.votes.any(axis=1)
            classes = np.where(voted, part.votes.argmax(axis=1), part.scores.argmax(axis=1))
            scores = part.scores[np.arange(len(classes)), classes] / part.pixels
            names = [plan.class_names[number] for number in classes.tolist()]
            columns += [pa.array(classes.astype(np.int32)), pa.array(names), pa.array(scores)]
        columns += [
            pa.array(part.pixels),
            pa.array(areas_m2(polygons, place.crs), from_pandas=True),  # NaN becomes null
            pa.array(_perimeters(polygons, place.crs), from_pandas=True),
        ]
        known = np.where(part.counts > 0, part.counts, math.nan)[:, np.newaxis]
        means = np.where(part.counts[:, np.newaxis] > 0, part.means, math.nan)
        deviations = np.sqrt(part.squares / known)
        for mean, deviation in zip(means.T, deviations.T, strict=True):
            columns += [pa.array(mean, from_pandas=True), pa.array(deviation, from_pandas=True)]
        vectors = np.ascontiguousarray(part.embeddings, "<f4")
        if pa.types.is_binary(schema.field("embedding").type):
            columns.append(pa.array([row.tobytes() for row in vectors], pa.binary()))
        else:
            flat = pa.array(vectors.ravel())
            columns.append(pa.FixedSizeListArray.from_arrays(flat, plan.embed_dims))
        columns.append(pa.array(shapely.to_wkb(polygons), pa.binary()))
        yield pa.record_batch(columns, schema), shapely.bounds(polygons)


def _perimeters(polygons: np.ndarray, crs: CRS | None) -> np.ndarray:
    """Lengths of the rings of (multi)polygons in metres."""
    parts, owners = shapely.get_parts(polygons, return_index=True)
    return np.bincount(owners, perimeters_m(parts, crs), minlength=len(polygons))


def _batches(regions: Iterator[_Regions], plan: RegionPlan) -> Iterator[_Regions]:
    """Regroup tables into such of one number of rows, the last of fewer."""
    size = int(np.clip(_BATCH_BYTES // (4 * plan.embed_dims), 1, _BATCH_ROWS))
    waiting, count = [], 0
    for part in regions:
        waiting.append(part)
        count += len(part.tokens)
        if count < size:
            continue
        whole = _Regions.joined(waiting)
        end = count - count % size
        for start in range(0, end, size):
            yield whole.take(slice(start, start + size))
        waiting, count = [whole.take(slice(end, None))], count - end
    if count:
        yield _Regions.joined(waiting)
