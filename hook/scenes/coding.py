"""Codes of scenes in georeferenced files, and scenes from codes.

A block of codes and what is decoded from it depend on its place in the scene alone: windows of one
size on one grid are read with a margin, and beyond the scene there is no data.
"""

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import rasterio

from hook.errors import DataError, SceneError
from hook.geo.arrays import CODE_TAGS
from hook.geo.bands import per_band
from hook.geo.raster import nodata_of_copy, open_raster, parse_nodata
from hook.geo.staging import StagedFiles, check_output
from hook.progress import progress_bar
from hook.scenes.blending import RowBlock
from hook.scenes.blocks import Block
from hook.scenes.codes import SUMS, CodedWindows, CodeGrid, SceneCodes
from hook.scenes.estimate import Estimate, count_overviews, resident_bytes
from hook.scenes.grid import Window, WindowGrid
from hook.scenes.layers import (
    Layer,
    Part,
    PartFile,
    SceneGeometry,
    crop_parts,
    try_options,
    write_cog,
)
from hook.scenes.mapping import BlockWriter, LayerPlan, cache_bytes, parts_of
from hook.scenes.pipeline import (
    QUEUE_SIZE,
    Job,
    RunBlocks,
    Scene,
    SceneReport,
    ranges_of,
    report_of_finished,
    run_missing_blocks,
    unfinished,
)
from hook.scenes.reader import Halo, SceneReader, SeriesReader
from hook.scenes.request import CodingRequest, EncodingRequest

DEFAULT_WINDOW = 512
_BLOCK_SIZE = 128  # of files of codes: a window is decoded from few bytes
_OF_VALUES = ("Palette", "Alpha")  # interpretations that decoded values do not have
_SAMPLES = 24  # windows of an estimate, evenly spaced over the scene
_FEW_SAMPLES = 4  # where a generator takes seconds for each


@dataclass(frozen=True, kw_only=True)
class CodingReport(SceneReport):
    """Result of :func:`decode_scene`."""

    size: int
    """Bytes of the file."""

    def _result(self) -> str:
        return f"{self.size} bytes, "


@dataclass(frozen=True, kw_only=True)
class EncodingReport(CodingReport):
    """Result of :func:`encode_scene`."""

    bits_per_pixel: float = 0.0
    """Bits of the file per pixel of the scene."""
    bands: tuple[str, ...] = ()
    """Names or numbers of the bands."""
    rmse: tuple[float, ...] = ()
    """Root mean square error of each band in the units of the scene; empty if not measured, NaN
    without a valid pixel."""
    psnr: tuple[float, ...] = ()
    """Peak signal-to-noise ratio of each band in dB, the peak being ``peak``."""
    peak: tuple[float, ...] = ()
    """Range of the model's values in the units of the scene, else of the scene's own values."""
    outside: int = 0
    """Values outside the range of the training data."""
    code_bytes: int = 0
    """Bytes of the codes of a file that a generator packed, with index and checksums; else 0."""
    expected_bytes: float = 0.0
    """What these codes need by the generator's probabilities."""
    model_bytes: int = 0
    """Weights of the generator, which are not in the file."""

    def __str__(self) -> str:
        lines = [f"{super().__str__()}, {self.bits_per_pixel:.4f} bits per pixel"]
        if self.code_bytes:
            more = 100 * (self.code_bytes / max(self.expected_bytes, 1) - 1)
            lines.append(
                f"  codes {self.code_bytes} bytes, {self.expected_bytes:.0f} by the probabilities "
                f"of the generator ({more:+.1f} %); its weights, {self.model_bytes / 1e6:.2f} MB, "
                "are not in the file"
            )
        rows = zip(self.bands, self.rmse, self.psnr, strict=False)
        lines += [f"  {name}: RMSE {rmse:.4g}, PSNR {psnr:.2f} dB" for name, rmse, psnr in rows]
        return "\n".join(lines)


# ---------------------------------------------------------------------------------- files
class PlaneLayer(Layer):
    """Bands of values that are written as they are: codes, or a decoded scene.

    Args:
        output: Final name of the file.
        none: Value of each band in blocks without data.
        needed: Number of bands that are written although no valid pixel shares a code with pixels
            without data; None for all.
        pack: Replaces the finished GeoTIFF by a packed file, and may return values of a report,
            have a ``digest`` of what it packs with, and a number of ``samples`` for an estimate;
            None leaves the GeoTIFF.
        **options: Of :class:`Layer`.
    """

    def __init__(
        self,
        output: Path,
        *,
        none: Iterable[float],
        needed: int | None = None,
        pack: Callable[[Path], Mapping[str, Any] | None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(output, **options)
        self.none = np.array(list(none), self.dtype)[:, None, None]
        self.pack, self.path, self.needed = pack, Path(output), needed

    def encode(self, block: RowBlock) -> np.ndarray:
        """Return the values of rows (count, n, width)."""
        return block.scores

    def add_to(self, files: StagedFiles) -> Path:
        """See :meth:`Layer.add_to`."""
        self.path = super().add_to(files)
        return self.path

    def finish(self) -> dict[str, Any]:
        """Pack the file, and return values of a report."""
        return dict((self.pack and self.pack(self.path)) or {})

    def written(self, sums: Mapping[str, np.ndarray]) -> "PlaneLayer":
        """Return the layer with the bands that are needed, given the sums of all blocks."""
        layer = copy.copy(self)
        if self.needed is not None:
            masked = bool(sums["missing"].any())
            layer.count = self.count if masked else self.needed
            layer.tags = {**self.tags, f"{CODE_TAGS}MASKED": json.dumps(masked)}
        return layer

    def describe(self) -> dict[str, object]:
        """Return what determines the bytes of the file, for a fingerprint."""
        packed = getattr(self.pack, "digest", self.pack is not None)
        return {**super().describe(), "tags": self.tags, "packed": packed}


class _RowStacker:
    """Puts windows that do not overlap together in rows, without blending."""

    def __init__(self, plan: "CodingPlan", emit: Callable[[RowBlock], None]) -> None:
        self._emit, self._window = emit, None
        self._layer, self._area = plan.layers[0], plan.area
        shape = self._layer.count, min(plan.window, plan.height), plan.width
        self._rows = np.empty(shape, self._layer.dtype)
        self._sums = np.zeros((len(SUMS), plan.bands))

    @property
    def notes(self) -> dict[str, Any]:
        """The sums of the block."""
        return {"sums": self._sums.tolist()}

    def add(self, window: Window, output: CodedWindows, covered: Any) -> None:
        """Add the planes and sums of a window."""
        self._enter(window)[:] = output.planes[:, : window.height, : window.width]
        self._sums += output.sums
        if output.valid is not None:
            ends = zip(self._area[:2], self._area[2:], window[:2], strict=True)
            part = (slice(max(a - w, 0), max(a + size - w, 0)) for a, size, w in ends)
            self._sums[0] += np.count_nonzero(output.valid[tuple(part)])

    def skip(self, window: Window) -> None:
        """Add a window without data."""
        self._enter(window)[:] = self._layer.none

    def _enter(self, window: Window) -> np.ndarray:
        if self._window is not None and self._window.row_off != window.row_off:
            self.finish()
        self._window = window
        return self._rows[:, : window.height, window.col_off : window.col_off + window.width]

    def finish(self) -> None:
        """Emit the last row of windows."""
        row_off, _, height, _ = self._window
        self._emit(RowBlock(row_off, self._rows[:, :height], np.ones(0, bool)))


@dataclass(frozen=True, kw_only=True)
class CodingPlan(LayerPlan):
    """Division of a scene into blocks of one fixed grid; ``area`` of them is written."""

    bands: int
    """Of the scene."""
    area: Window

    @property
    def grid(self) -> WindowGrid:
        """The blocks."""
        return WindowGrid(self.height, self.width, self.window, 0, step=self.window)

    @property
    def batch(self) -> int:
        """Blocks of a batch, never fewer."""
        return self.batch_size

    def rows(self, block: Block, emit: Callable, emit_seam: Callable) -> _RowStacker:
        """Return what makes rows of the windows of a block."""
        return _RowStacker(self, emit)


def check_planes(output: CodedWindows, batch: int, plan: CodingPlan) -> list[CodedWindows]:
    """Check and copy the output of a batch; return that of each window.

    Raises:
        SceneError: It has the wrong shape.
    """
    layer = plan.layers[0]
    expected = (batch, layer.count, plan.window, plan.window), (batch, len(SUMS), plan.bands)
    found = tuple(np.shape(part) for part in output[:2])
    if found != expected:
        raise SceneError(
            "the model's output for a batch of windows",
            expected=f"planes and sums of shapes {expected}",
            found=found,
            remedy="check the stride and the number of codes of the model",
        )
    planes = np.array(output.planes, layer.dtype)
    sums = np.asarray(output.sums, np.float64)
    valid = [None] * batch if output.valid is None else output.valid
    return [CodedWindows(*parts) for parts in zip(planes, sums, valid, strict=True)]


CODING = Job(check_planes, BlockWriter, cache_bytes)
"""Blocks of :func:`encode_scene` and :func:`decode_scene`."""


# ---------------------------------------------------------------------------------- scenes
def _area(reader: Any, request: CodingRequest, stride: int = 1) -> Window:
    """Return the part of a grid of ``stride`` pixels in ``bounds``, the whole without them."""
    box = (0, 0, reader.width, reader.height)
    if request.bounds is not None:
        left, bottom, right, top = request.bounds
        corners = [~reader.transform @ (x, y) for x in (left, right) for y in (bottom, top)]
        (x0, y0), (x1, y1) = np.min(corners, axis=0), np.max(corners, axis=0)
        starts = (max(math.floor(start + 1e-6), 0) for start in (x0, y0))
        ends = (min(math.ceil(e - 1e-6), n) for e, n in zip((x1, y1), box[2:], strict=True))
        box = (*starts, *ends)
        if box[0] >= box[2] or box[1] >= box[3]:
            extent = rasterio.transform.array_bounds(reader.height, reader.width, reader.transform)
            raise DataError(
                "bounds: outside the scene",
                expected=f"a box that intersects {extent}",
                found=request.bounds,
                remedy="use left, bottom, right, top in the scene's CRS",
            )
    first, last = (box[1] // stride, box[0] // stride), (box[3], box[2])
    rows, cols = (math.ceil(end / stride) - start for start, end in zip(first, last, strict=True))
    return Window(*first, rows, cols)


def _plan(
    request: CodingRequest,
    scene: Scene,
    layer: PlaneLayer,
    size: tuple[int, int],
    area: Window,
    halo: dict[str, Any],
    window: int,
    bands: int,
) -> tuple[Scene, CodingPlan]:
    """Plan to make the area of a grid of ``size`` in whole blocks."""
    check_output(layer.output, request.inputs)
    starts = [off // window * window for off in area[:2]]
    ends = [
        min(math.ceil((off + length) / window) * window, limit)
        for off, length, limit in zip(area[:2], area[2:], size, strict=True)
    ]
    whole = Window(*starts, ends[0] - starts[0], ends[1] - starts[1])
    kept = Window(area.row_off - starts[0], area.col_off - starts[1], area.height, area.width)
    halo = Halo(**halo, area=whole)
    plan = CodingPlan(
        height=whole.height,
        width=whole.width,
        window=window,
        overlap=0,
        batch_size=request.batch_size,
        block_windows=request.block_windows,
        layers=(layer,),
        bands=bands,
        area=kept,
    )
    return dataclasses.replace(scene, halo=halo), plan


def _side(request: CodingRequest, grid: CodeGrid, size: tuple[int, int]) -> int:
    """Return the codes along a side of a block, no more than a scene of ``size`` codes has.

    Up to the default it is that of all scenes, whose codes then agree to the last bit.
    """
    if grid.window:
        return grid.window
    default = DEFAULT_WINDOW // grid.stride
    wanted = request.window // grid.stride if request.window else default
    return max(min(wanted, max(default, *size)), 1)


def plan_encoding(
    request: EncodingRequest,
    grid: CodeGrid,
    sizes: tuple[int, ...],
    model: str,
    digest: str,
    pack: Callable[[Path], Mapping[str, Any] | None] | None = None,
    series: "Series | None" = None,
) -> tuple[SceneCodes, Scene, CodingPlan]:
    """Plan the codes of a scene: what they say, what to read, how to divide it, what to write.

    Args:
        request: Options.
        grid: Of the model.
        sizes: Number of codes of each depth or group.
        model: Its name.
        digest: Of its weights and scaling.
        pack: Packs a file of codes in its place, see :class:`PlaneLayer`; None for none.
        series: A time series, whose files are those of the request.

    Raises:
        SceneError: The scene cannot be read or lacks a band.
        DataError: ``bounds`` are outside it.
    """
    scene = Scene.of(request)
    if series is not None:
        sizes *= len(series.dates) * len(series.groups)
        scene = dataclasses.replace(scene, dates=series.scenes)
    with scene.open() as reader:
        size = math.ceil(reader.height / grid.stride), math.ceil(reader.width / grid.stride)
        side = grid.window or 1  # blocks that are coded by themselves stay whole
        area = [side * value for value in _area(reader, request, grid.stride * side)]
        ends = [min(n, off + length) for n, off, length in zip(size, area, area[2:], strict=False)]
        area = Window(*area[:2], ends[0] - area[0], ends[1] - area[1])
        codes = _describe(reader, request, area, grid, series, model, digest, sizes)
        count, words = len(sizes), codes.validity_bands
        names = [f"code {number + 1}" for number in range(count)]
        valid = [f"validity {number + 1}" for number in range(words)]
        if series is not None:
            names, valid = series.names(codes, count, words)
        layer = PlaneLayer(
            request.output or Path("codes.tif"),
            none=[codes.none] * count + [0] * words,
            needed=count,
            pack=pack,
            count=count + words,
            dtype=codes.code_dtype.name,
            nodata=codes.none,
            descriptions=names + valid,
            resampling="NEAREST",
            tags=codes.tags(),
            # Codes have no mean, and their overviews would cost a third of the bytes.
            creation_options={
                **{"OVERVIEWS": "NONE", "BLOCKSIZE": _BLOCK_SIZE},
                **{str(k).upper(): value for k, value in (request.creation_options or {}).items()},
            },
        )
        window = _side(request, grid, size)
        margin = (grid.margin + grid.reach) * grid.stride
        halo = dict(take=grid.stride, give=1, margin=margin)
        return codes, *_plan(request, scene, layer, size, area, halo, window, len(codes.bands))


class Series(NamedTuple):
    """A time series to be coded."""

    dates: tuple[str | None, ...]
    """ISO dates; of one date it may be None."""
    scenes: tuple[Scene, ...]
    """Of each date."""
    bands: tuple[str, ...]
    """Names or numbers of the bands of a date."""
    groups: tuple[tuple[int, ...], ...]
    """Indexes of the bands of each band group of the model."""
    resolution: float | None
    """Metres along a pixel."""

    @property
    def pairs(self) -> Iterable[tuple[Scene, str | None]]:
        """Scene and date."""
        return zip(self.scenes, self.dates, strict=True)

    def layer_names(self, bands: Iterable[str]) -> list[str]:
        """Return the names of layers, all of ``bands`` for each date."""
        bands = list(bands)
        return [" ".join(filter(None, (date, band))) for date in self.dates for band in bands]

    def names(self, codes: SceneCodes, count: int, words: int) -> tuple[list[str], list[str]]:
        """Return the names of ``count`` codes and of ``words`` validity bands."""
        depth = count // (len(self.dates) * len(self.groups))
        groups = ["+".join(self.bands[band] for band in group) for group in self.groups]
        parts = [f"{group} code {number + 1}" for group in groups for number in range(depth)]
        valid = [f"validity {number + 1}" for number in range(words // len(self.dates))]
        return self.layer_names(parts), self.layer_names(valid)


def _describe(
    reader: SceneReader | SeriesReader,
    request: EncodingRequest,
    area: Window,
    grid: CodeGrid,
    series: Series | None,
    *model: Any,
) -> SceneCodes:
    """Return what the codes of an area say, given name, digest and sizes of the model.

    The nodata value of a series is that of the first date with one.
    """
    stride, indexes = grid.stride, reader.indexes
    scenes = [(request.input[0], indexes)]
    if series is not None:
        scenes = [(one.paths[0], one.indexes) for one in series.scenes]
    given = parse_nodata(request.nodata, "nodata", SceneError)
    of_model = request.nodata == (request.metainfo or {}).get("nodata")
    colours, names, dtypes, nodata = (), (), [], None
    for path, own in scenes:
        with open_raster(path, SceneError) as source:
            if nodata is None:
                nodata = nodata_of_copy(source, own, given, own_first=of_model)
            found = (source.colorinterp[index - 1].name.title() for index in own)
            colours += tuple(one if one not in _OF_VALUES else "Undefined" for one in found)
            names += tuple(source.descriptions[index - 1] for index in own)
            dtypes += [source.dtypes[index - 1] for index in own]
    dtype, meta, of_series = np.result_type(*dtypes).name, request.metainfo or {}, {}
    if series is not None:
        names = tuple(series.layer_names(series.bands))
        of_series = dict(dates=series.dates, factors=grid.factors, window=grid.window)
        of_series["resolution"] = series.resolution
    count = len(indexes) // len(scenes)
    scale, offset = reader.scale_tags or (
        np.tile(per_band(name, meta.get(name), count, default), len(scenes))
        for name, default in (("scale", 1), ("offset", 0))
    )
    rows, cols = (
        min((off + length) * stride, limit) - off * stride
        for off, length, limit in (
            (area.row_off, area.height, reader.height),
            (area.col_off, area.width, reader.width),
        )
    )
    scaling = tuple(scale.tolist()), tuple(offset.tolist()), reader.scale_tags is not None
    parts = stride, rows, cols, dtype, nodata, names, colours, *scaling
    matrix = tuple(stride * getattr(reader.transform, name) for name in "abde")
    return SceneCodes(*model, *parts, **of_series, matrix=matrix)


def plan_decoding(
    request: CodingRequest, codes: SceneCodes, grid: CodeGrid
) -> tuple[Scene, CodingPlan]:
    """Plan the scene of codes, see :func:`plan_encoding`."""
    scaling = list(zip(codes.scale, codes.offset, strict=True)) if codes.tagged else None
    layer = PlaneLayer(
        request.output or Path("scene.tif"),
        none=[codes.fill] * len(codes.bands),
        count=len(codes.bands),
        dtype=codes.dtype,
        nodata=codes.nodata,
        descriptions=codes.bands,
        resampling="AVERAGE",
        scaling=scaling,
        colours=codes.colours,
        creation_options=request.creation_options,
    )
    with open_raster(request.input[0], SceneError) as source:
        request = dataclasses.replace(request, nodata="nan", bidx=list(source.indexes))
    scene = Scene.of(request)
    with scene.open() as reader:
        size = codes.height, codes.width
        transform = reader.transform @ rasterio.Affine.scale(1 / codes.stride)
        pixels = SimpleNamespace(height=size[0], width=size[1], transform=transform)
        halo = dict(take=1, give=codes.stride, margin=grid.reach, nodata=codes.none)
        halo["marked"] = len(codes.sizes)
        area = _area(pixels, request)
        window = _side(request, grid, codes.grid) * grid.stride
        return _plan(request, scene, layer, size, area, halo, window, len(codes.bands))


def encode_scene(
    function: Callable[[np.ndarray, np.ndarray], CodedWindows] | None,
    request: EncodingRequest,
    codes: SceneCodes,
    scene: Scene,
    plan: CodingPlan,
    *,
    peak: np.ndarray | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    run_blocks: RunBlocks | None = None,
) -> EncodingReport:
    """Write the codes of a scene as a Cloud-Optimised GeoTIFF, a band for each depth or group.

    Its pixels are ``stride`` times as large as the scene's. If pixels without data share a code
    with others, bands follow whose bits are the valid pixels. The engine is that of
    :func:`hook.scenes.map_scene`, with its guarantees.

    Args:
        function: Called with windows (B, C, side, side) and their validity, see
            :class:`hook.scenes.reader.HaloReader`. Not called for blocks without data.
        request: Options.
        codes: Of :func:`plan_encoding`.
        scene: Of :func:`plan_encoding`.
        plan: Of :func:`plan_encoding`.
        peak: Range of each band for PSNR; None for that of the scene's values.
        fingerprint: Determines the outputs of ``function``, serialisable as JSON.
        run_blocks: Runs the blocks in other processes; None for this one.

    Raises:
        DataError: An error is above ``max_error``.
        SceneError: As :func:`hook.scenes.map_scene`.
    """
    names = tuple(name or str(number) for number, name in enumerate(codes.bands, 1))

    def summarise(found: dict[str, Any], sums: Mapping[str, np.ndarray]) -> dict[str, Any]:
        found |= dict(bands=names, outside=int(sums["outside"].sum()))
        if not request.errors:
            return found
        low, high = (np.array([one[row] for one in found["ranges"]]) for row in (2, 3))
        own = (high.max(axis=0) - low.min(axis=0)) / np.abs(codes.scale if codes.tagged else 1)
        largest = np.broadcast_to(own if peak is None else peak, len(names))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = sums["squared_error"] / sums["pixels"]  # NaN without a valid pixel
            psnr = 10 * np.log10(np.square(largest) / mean)
        columns = dict(rmse=np.sqrt(mean), psnr=psnr, peak=largest)
        found |= {name: tuple(map(float, column)) for name, column in columns.items()}
        worst = int(np.argmax(np.nan_to_num(mean)))
        if request.max_error is not None and found["rmse"][worst] > request.max_error:
            raise DataError(
                f"{request.output}: the codes are worse than max_error (--max-error)",
                expected=f"a root mean square error of at most {request.max_error:g} in each band",
                found=f"{found['rmse'][worst]:.4g} in band {names[worst]}",
                remedy="allow more, or use a model of more bits, or one trained on such data",
            )
        return found

    settings = {"errors": request.errors, "model": dict(fingerprint or {})}
    further = {"max_error": request.max_error}
    run = _Run(EncodingReport, request, scene, plan, settings, further, summarise)
    report = run(function, run_blocks)
    bits = 8 * report.size / (codes.height * codes.width)
    return dataclasses.replace(report, bits_per_pixel=bits)


def decode_scene(
    function: Callable[[np.ndarray, np.ndarray], CodedWindows] | None,
    request: CodingRequest,
    scene: Scene,
    plan: CodingPlan,
    *,
    fingerprint: Mapping[str, Any] | None = None,
    run_blocks: RunBlocks | None = None,
    unpack: Any = None,
) -> CodingReport:
    """Write the scene of codes, or a part of it, as a Cloud-Optimised GeoTIFF.

    A part has the values of the whole scene, bit for bit. Arguments and errors are those of
    :func:`encode_scene`, with a plan of :func:`plan_decoding`; windows are of the bands of the file
    of codes. ``unpack`` is called first with the rows and columns (first, end) that are needed; its
    method ``missing`` lists the blocks that it would unpack.
    """
    settings = {"model": dict(fingerprint or {})}
    run = _Run(CodingReport, request, scene, plan, settings)
    if unpack is not None:
        area = Window(0, 0, plan.height, plan.width)
        run = dataclasses.replace(run, prepare=lambda: unpack(*_needed(scene, area)))
    return run(function, run_blocks)


def _needed(scene: Scene, window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the rows and columns (first, end) of a scene that a window of its plan needs."""
    halo = scene.halo
    spans = zip(halo.area[:2], window[:2], window[2:], strict=True)
    return tuple(
        (
            (start + off) * halo.take // halo.give - halo.margin,
            math.ceil((start + off + length) * halo.take / halo.give) + halo.margin,
        )
        for start, off, length in spans
    )


@dataclass(frozen=True)
class _Run:
    """A run that writes the file of a plan."""

    kind: type[CodingReport]
    request: CodingRequest
    scene: Scene
    plan: CodingPlan
    settings: Mapping[str, Any]
    further: Mapping[str, Any] = field(default_factory=dict)
    summarise: Callable[[dict, Mapping], dict] = lambda found, sums: found
    """Adds to the values of the report, and may refuse the result."""
    prepare: Callable[[], Any] | None = None
    """Called before the scene is read."""

    def __call__(self, function: Callable | None, run_blocks: RunBlocks | None) -> Any:
        begun = time.monotonic()
        request, scene, plan = self.request, self.scene, self.plan
        settings = {**scene.fingerprint(), **plan.fingerprint(), **self.settings}
        if report := report_of_finished(self.kind, request, {**settings, **self.further}):
            return report
        if self.prepare is not None:
            self.prepare()
        with scene.open() as reader, unfinished(request, settings, self.further) as opened:
            journal, files = opened
            path = plan.layers[0].add_to(files)
            geometry = _geometry(reader, plan.area)
            try_options(plan.layers[0], geometry)
            resumed = run_missing_blocks(
                CODING, function, scene, reader, plan, journal, run_blocks, request.progress
            )
            notes = [journal.read_json(block.note) for block in plan.blocks]
            sums = dict(zip(SUMS, np.sum([note["sums"] for note in notes], axis=0), strict=True))
            found = dict(
                windows=len(plan.grid),
                empty_windows=sum(note["empty"] for note in notes),
                pixels=int(sums["pixels"].max()),
                resumed_windows=resumed,
                ranges=ranges_of(notes),
            )
            found = self.summarise(found, sums)
            layer = plan.layers[0].written(sums)
            parts = crop_parts(parts_of(journal, plan, 0), plan.area)
            with progress_bar(total=1, unit="file", show=request.progress) as bar:
                bar.set_description(f"writing {path.name}")
                write_cog(path, layer, geometry, parts, journal.folder)
                found |= layer.finish()
                bar.update()
            size = path.stat().st_size
            files.commit()
            report = self.kind(**found, size=size, seconds=time.monotonic() - begun)
            journal.finish(files.finals, dataclasses.asdict(report))
        return report


def _geometry(reader: Any, area: Window) -> SceneGeometry:
    transform = reader.transform @ rasterio.Affine.translation(area.col_off, area.row_off)
    return SceneGeometry(area.height, area.width, reader.crs, transform)


# ---------------------------------------------------------------------------------- estimates
def estimate_coding(
    function: Callable, scene: Scene, plan: CodingPlan, unpack: Any = None
) -> Estimate:
    """Estimate time, memory and disk of :func:`encode_scene` or :func:`decode_scene`.

    Windows evenly spaced over the scene are coded, and written as a file of their own, whose size
    is scaled to the scene.

    Args:
        function: The function of windows.
        scene: The scene.
        plan: Of :func:`plan_encoding` or :func:`plan_decoding`.
        unpack: See :func:`decode_scene`; called for a few windows.
    """
    grid, layer = plan.grid, plan.layers[0]
    samples = _FEW_SAMPLES if unpack else getattr(layer.pack, "samples", _SAMPLES)
    chosen = np.unique(np.linspace(0, len(grid) - 1, samples).round().astype(int)).tolist()
    seconds, planes, sampled, sums, memory, waiting = [], [], [], 0, 0, []
    packing = 0.0
    if unpack is not None:
        begun = time.perf_counter()
        done = sum(unpack(*_needed(scene, grid[number])) for number in chosen)
        packing = (time.perf_counter() - begun) / max(done, 1)
        whole = _needed(scene, Window(0, 0, plan.height, plan.width))
        packing *= done + len(unpack.missing(*whole))
    with scene.open() as reader, rasterio.Env(GDAL_CACHEMAX=cache_bytes(reader, plan)):
        for number in chosen:
            data = reader.read(grid[number], grid.window)
            waiting += [(grid[number], data)] if data.covered.any() else []
            if not waiting or (len(waiting) < plan.batch and number != chosen[-1]):
                continue
            filled = waiting + waiting[-1:] * (plan.batch - len(waiting))
            inputs = (np.stack([data[part] for _, data in filled]) for part in (0, 1))
            begun = time.perf_counter()
            found = check_planes(function(*inputs), plan.batch, plan)[: len(waiting)]
            seconds.append(time.perf_counter() - begun)
            planes += [one.planes for one in found]
            sampled += [window.height * window.width for window, _ in waiting]
            sums = sums + sum(one.sums for one in found)
            waiting = []
            if len(seconds) == 2:  # before the samples fill it
                memory = resident_bytes()
        memory = memory or resident_bytes()
        memory += _added_bytes(plan, scene.halo, reader.dtype.itemsize * len(reader.indexes))
        memory += cache_bytes(reader, plan)
        geometry = _geometry(reader, plan.area)
    share = len(planes) / len(chosen)
    size = parts = 0.0
    if planes:
        layer = layer.written(dict(zip(SUMS, sums, strict=True)))
        columns = math.ceil(math.sqrt(len(planes)))
        rows = math.ceil(len(planes) / columns)
        order = [i % len(planes) for i in range(rows * columns)]
        tiles = [planes[i] for i in order]
        mosaic = np.block([tiles[i * columns : (i + 1) * columns] for i in range(rows)])
        sides = (plan.area.height, plan.area.width), mosaic.shape[1:]
        # Beyond the scene the last blocks are empty.
        pixels = [plan.area.height * plan.area.width, sum(sampled[i] for i in order)]
        if layer.creation_options.get("OVERVIEWS") != "NONE":
            levels = (count_overviews(*pair) + 1 for pair in sides)
            factors = (sum(4.0**-level for level in range(count)) for count in levels)
            pixels = [number * factor for number, factor in zip(pixels, factors, strict=True)]
        scale = share * pixels[0] / pixels[1]
        empty = np.broadcast_to(layer.none[: len(mosaic)], mosaic.shape)
        blank = _file_sizes(layer, geometry, empty)
        header = _file_sizes(layer, geometry, empty[:, :1, :1])[0]
        full = _file_sizes(layer, geometry, mosaic)
        packing += full[2] * scale
        size = header + (full[0] - blank[0]) * scale
        parts = (full[1] - blank[1]) * scale
    batches = math.ceil(share * len(grid) / plan.batch)
    return Estimate(
        windows=len(grid),
        empty_windows=round((1 - share) * len(grid)),
        memory_bytes=int(memory),
        disk_bytes=int(size),
        work_bytes=int(parts),
        seconds=batches * float(np.median(seconds or [0])) + packing,
        what="file",
    )


def _file_sizes(
    layer: PlaneLayer, geometry: SceneGeometry, values: np.ndarray
) -> tuple[int, int, float]:
    """Return the bytes of a file of values (count, rows, columns) and of its part.

    With them, the seconds that packing takes.
    """
    with TemporaryDirectory(prefix="hook-") as folder:
        layer = copy.copy(layer)
        part, layer.path = Path(folder, "part.tif"), Path(folder, "file.tif")
        whole = copy.copy(layer)
        whole.count = len(values)
        file = PartFile(part, whole, *values.shape[1:])
        file.write(values)
        file.finish()
        size = dict(zip(("height", "width"), values.shape[1:], strict=True))
        parts = [Part(0, values.shape[1], part)]
        write_cog(layer.path, layer, geometry._replace(**size), parts, Path(folder))
        begun = time.perf_counter()
        layer.finish()
        seconds = time.perf_counter() - begun
        return layer.path.stat().st_size, part.stat().st_size, seconds


def _added_bytes(plan: CodingPlan, halo: Halo, pixel: int) -> int:
    """Return the bytes of rows, queues and strips of a run."""
    value = plan.layers[0].count * np.dtype(plan.layers[0].dtype).itemsize
    rows = (min(plan.window, plan.height) + PartFile.STRIP_ROWS) * plan.width * value
    side = plan.window * halo.take // halo.give + 2 * halo.margin
    read = 2 * QUEUE_SIZE * plan.batch * side**2 * (pixel + 1)
    return rows + read + (QUEUE_SIZE + 1) * plan.batch * plan.window**2 * value
