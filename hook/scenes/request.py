"""Options of scenes and maps as one frozen value that is checked once."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely

from hook.arguments import (
    bad_argument,
    check_bands,
    check_int,
    check_number,
    check_path,
    short_repr,
)
from hook.errors import ConfigError, DataError
from hook.geo.arrays import is_array
from hook.geo.vector import check_finite, read_vectors, split_layer, warn_missing_crs
from hook.scenes.blocks import WINDOWS_PER_BLOCK
from hook.scenes.grid import check_overlap
from hook.scenes.reader import AreaOfInterest
from hook.scenes.stac import TimeSpan, parse_time_span


@dataclass(frozen=True)
class SceneRequest:
    """Options of processing a whole scene, window by window.

    Args:
        input: The scene: any raster that GDAL opens, several of one area (the first on top where
            they overlap), or a TorchGeo dataset of rasters; stored as file names.
            :mod:`hook.apis` also accepts an array (bands, rows, cols), or an ``xarray.DataArray``
            (band, y, x) with CRS, coordinates and nodata value as read by rioxarray.
        output: File to write. :mod:`hook.apis` returns the result if it is None.
        window: Side of the window in pixels; None for the size the model was trained with. A
            smaller scene is padded by reflection.
        overlap: Overlap of neighbouring windows, a fraction of the window below 1 or in pixels.
        batch_size: Windows per batch.
        bidx: 1-based bands of the scene in the model's order; None for the bands of the model's
            dataset meta, else all bands except alpha.
        nodata: Replaces the scene's nodata value: a number or ``"nan"``.
        metainfo: Dataset meta of the model with ``scale``, ``offset`` and ``nodata``, which
            :mod:`hook.apis` fills in, see :func:`hook.geo.bands.scale_tags`.
        aoi: Area of interest; only its bounding box is processed, and pixels outside it are
            invalid: a vector file of polygons (or ``FILE|layername=NAME``), a GeoDataFrame, or a
            box (left, bottom, right, top) in the scene's CRS. Stored as
            :class:`hook.scenes.reader.AreaOfInterest`.
        cluster: ``"local"`` starts ``workers`` processes on this machine; an address connects to
            the Dask scheduler there. None for this process only.
        workers: Number of processes of ``cluster="local"``.
        resume: Continue an interrupted run, if there is one; leave a finished one as it is.
        overwrite: Replace existing outputs and, without ``resume``, discard an interrupted run.
        progress: Show a progress bar on a terminal.
        block_windows: Minimum number of windows of a block, the unit of resuming and of workers.
        protect: Further files that no output replaces, such as those of the model; the file of the
            area of interest is added.

    Raises:
        ConfigError: An option has the wrong type or value.
        DataError: A dataset has no files, or the area of interest is invalid or cannot be read.
    """

    input: Any
    output: str | os.PathLike | None = None
    _: KW_ONLY
    window: int | None = None
    overlap: float = 0.25
    batch_size: int = 4
    bidx: Sequence[int | str] | None = None
    nodata: float | str | None = None
    metainfo: Mapping[str, Any] | None = None
    aoi: Any = None
    cluster: str | None = None
    workers: int = 2
    resume: bool = False
    overwrite: bool = False
    progress: bool = True
    block_windows: int = WINDOWS_PER_BLOCK
    protect: tuple[Any, ...] = ()

    _outputs = ("output",)

    def __post_init__(self) -> None:
        if not self.has_arrays:
            self._set(input=scene_files(self.input))
        if self.window is not None:
            self._set(window=check_int("window", self.window))
        for name in ("batch_size", "workers", "block_windows"):
            self._set(**{name: check_int(name, getattr(self, name))})
        # The fingerprint of an unfinished run is JSON, which cannot store NumPy scalars.
        overlap = self.overlap.item() if isinstance(self.overlap, np.generic) else self.overlap
        self._set(overlap=check_overlap(overlap, self.window))
        if not isinstance(self.cluster, str | None):
            raise bad_argument(
                "cluster", self.cluster, "'local', or the address of a Dask scheduler"
            )
        if self.bidx is not None:
            self._set(bidx=check_bands(self.bidx))
        for name in self._outputs:
            self._check_output(name)
        if self.aoi is not None:
            if isinstance(self.aoi, str | os.PathLike):
                self._set(protect=(*self.protect, self.aoi))
            self._set(aoi=area_of_interest(self.aoi))

    @property
    def inputs(self) -> tuple[Any, ...]:
        """All that the run reads, see :func:`hook.geo.sources.local_files`."""
        return (*self.input, *self.protect)

    @property
    def in_memory(self) -> bool:
        """Whether the scene is an array, or the result is returned as one."""
        return self.output is None or self.has_arrays

    @property
    def has_arrays(self) -> bool:
        """Whether the scene, or a part of it, is an array rather than a file."""
        parts = self.input if isinstance(self.input, list | tuple) else [self.input]
        return any(map(is_array, parts))

    def _set(self, **values: Any) -> None:
        """Replace options by their parsed values."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_output(self, name: str) -> None:
        """Check the name of an output and store it as a path."""
        if getattr(self, name) is None:
            return
        path = check_path(name, getattr(self, name))
        self._set(**{name: path})
        # The area has been read, and its file would be overwritten later.
        if not isinstance(self.aoi, str | os.PathLike):
            return
        if Path(split_layer(self.aoi)[0]).absolute() == path.absolute():
            raise bad_argument(name, path, "a file other than the area of interest")


@dataclass(frozen=True)
class MapRequest(SceneRequest):
    """Options of a map, see :func:`hook.scenes.map_scene`.

    Args:
        blend: ``"hann"``, ``"mean"`` or ``"crop"``, see
            :func:`hook.scenes.blending.blend_profile`.
        out_nodata: Nodata value of the map; None for 255 (65535 above 255 classes).
        scores: Also write ``"probs"``, ``"entropy"`` or ``"margin"``, or several, see
            :class:`hook.scenes.layers.ScoreLayer`.
        scores_path: File of the scores; None for ``<stem>.scores.tif`` next to the map.
        vectors: Also write regions as polygons: ``.gpkg``, ``.parquet``, ``.fgb`` or ``.geojson``,
            see :func:`hook.scenes.polygonize`.
        min_area: Dissolve polygons below this many square metres into their largest neighbour.
        simplify: Tolerance of simplification of the polygons, in units of the scene's CRS.
        datetime: Acquisition time for the STAC Item of the map: ``"2024-05-31"``,
            ``"2024-05-31T10:20:30Z"`` or two of these as ``"first/last"``; None for the tags of
            the scene's files.
        creation_options: Options of GDAL's COG driver, such as ``{"COMPRESS": "ZSTD"}``.
        dry_run: Write nothing; estimate windows, memory, disk and time.

    Raises:
        SceneError: ``datetime`` is invalid.
    """

    blend: str = "hann"
    out_nodata: int | None = None
    scores: str | Sequence[str] = ()
    scores_path: str | os.PathLike | None = None
    vectors: str | os.PathLike | None = None
    min_area: float = 0
    simplify: float = 0
    datetime: str | None = None
    creation_options: Mapping[str, object] | None = None
    dry_run: bool = False

    _outputs = ("output", "scores_path", "vectors")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("min_area", self.min_area, minimum=0)
        check_number("simplify", self.simplify, minimum=0)
        if not isinstance(self.scores, str | Sequence):
            expected = "'probs', 'entropy' or 'margin', or several of them"
            raise bad_argument("scores", self.scores, expected)
        kinds = (self.scores,) if isinstance(self.scores, str) else tuple(self.scores)
        self._set(scores=kinds)
        if not isinstance(self.datetime, str | None):
            raise bad_argument("datetime", self.datetime, "a date or two, such as '2024-05-31'")
        if self.datetime is not None:
            parse_time_span(self.datetime)
        _check_creation_options(self.creation_options)
        if self.output is None and self.scores and self.scores_path is None:
            raise ConfigError(
                "scores need a file",
                expected="output or scores_path",
                found="neither",
                remedy="set scores_path",
            )

    @property
    def times(self) -> TimeSpan | None:
        """First and last time of the scene from ``datetime``, or None."""
        return None if self.datetime is None else parse_time_span(self.datetime)

    @property
    def scores_file(self) -> Path | None:
        """File of the scores; None without scores."""
        if not self.scores:
            return None
        return self.scores_path or self.output.with_suffix(".scores.tif")


@dataclass(frozen=True)
class CodingRequest(SceneRequest):
    """Options of coding a scene, or of decoding its codes, on one fixed grid of blocks.

    ``overlap`` and ``aoi`` cannot be used: blocks do not overlap, and ``bounds`` choose a part.

    Args:
        window: Side of a block in pixels of the scene, rounded down to whole codes; None for 512.
        batch_size: Blocks per batch; batches are always full, so that results do not depend on the
            number of blocks.
        bounds: Part of the scene, (left, bottom, right, top) in its CRS: what the whole scene has
            there. In encoding, it is extended to whole codes of the scene.
        creation_options: Options of GDAL's COG driver, such as ``{"COMPRESS": "ZSTD"}``.
        dry_run: Write nothing; estimate windows, memory, disk and time.

    Raises:
        ConfigError: An option cannot be used.
    """

    overlap: float = 0
    batch_size: int = 1
    bounds: Sequence[float] | None = None
    creation_options: Mapping[str, object] | None = None
    dry_run: bool = False

    _suffixes = (".tif", ".tiff")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_creation_options(self.creation_options)
        for name, given in (("overlap", self.overlap != 0), ("aoi", self.aoi is not None)):
            if given:
                remedy = "choose a part of the scene with bounds"
                raise bad_argument(name, getattr(self, name), "nothing: blocks are fixed", remedy)
        if self.bounds is not None:
            self._set(bounds=_check_box("bounds", self.bounds))
        if self.output is not None and self.output.suffix.lower() not in self._suffixes:
            expected = f"a name that ends in {self._suffixes[0]}"
            remedy = "correct output; codes are packed in .hkc with entropy (--entropy), else .tif"
            raise bad_argument("output", self.output, expected, remedy)


@dataclass(frozen=True)
class EncodingRequest(CodingRequest):
    """Options of coding a scene, see :func:`hook.scenes.coding.encode_scene`.

    Args:
        max_error: Largest root mean square error of a band, in the units of the scene's values,
            with which codes are written; None for any.
        entropy: Pack the codes in a file ``.hkc`` that GDAL does not read: True with a table of
            their frequencies; a generator of these codes, as an argument of
            :func:`hook.apis.load_model`, with its probabilities.
        errors: Decode what was coded to measure errors, which takes longer than coding.
        dates: Of a time series: ISO dates or days since 1970-01-01; None for those of the files,
            see :func:`hook.geo.dates.read_dates` and :func:`hook.geo.dates.date_of`.
    """

    max_error: float | None = None
    entropy: Any = False
    errors: bool = True
    dates: Sequence[str | float] | None = None

    def __post_init__(self) -> None:
        self._set(_suffixes=(".hkc",) if self.entropy else CodingRequest._suffixes)
        super().__post_init__()
        if self.max_error is not None:
            check_number("max_error", self.max_error, minimum=0)
            if not self.errors:
                raise bad_argument("max_error", self.max_error, "errors that are measured")
        if self.dates is not None:
            if isinstance(self.dates, str) or not isinstance(self.dates, Iterable):
                expected = "a list, such as ['2018-04-29', '2018-05-13']"
                raise bad_argument("dates", self.dates, expected)
            self._set(dates=tuple(self.dates))
        if self.entropy and self.output is None:
            raise bad_argument("output", None, "the name of a file, which entropy writes")


def _check_creation_options(options: object) -> None:
    if not isinstance(options, Mapping | None):
        raise bad_argument("creation_options", options, "a dict such as {'COMPRESS': 'ZSTD'}")


def _check_box(name: str, value: Any) -> tuple[float, ...]:
    """Return a box (left, bottom, right, top) as numbers."""
    if (box := _box(value)) is None:
        raise bad_argument(name, value, "left, bottom, right, top, in the scene's CRS")
    return box


def _box(value: Any) -> tuple[float, ...] | None:
    """Return four finite numbers, of which the last two are the larger; None for anything else."""
    try:
        box = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        return None
    right = len(box) == 4 and np.isfinite(box).all() and box[0] < box[2] and box[1] < box[3]
    return box if right else None


def scene_files(input: Any) -> tuple[str, ...]:
    """List the files of a scene, see ``input`` of :class:`SceneRequest`; not for arrays.

    Raises:
        ConfigError: It does not name a file.
        DataError: A dataset has no files.
    """
    if isinstance(input, str | os.PathLike):
        return (os.fspath(input),)
    # By name: importing TorchGeo takes a second.
    is_dataset = any(kind.__name__ == "GeoDataset" for kind in type(input).__mro__)
    if is_dataset:
        input = sorted(map(str, getattr(input, "files", ())))
        if not input:
            raise DataError(
                "the scene is a dataset without raster files",
                expected="a TorchGeo RasterDataset with files",
                remedy="pass the files themselves",
            )
    try:
        # Iterating over a table would yield its column names.
        files = () if hasattr(input, "columns") else tuple(os.fspath(path) for path in input)
    except TypeError:
        files = ()
    if not files:
        raise ConfigError(
            "input: no scene to read",
            expected="a file name, a list of them, a TorchGeo dataset, or an array",
            found=short_repr(input),
            remedy="name the file of the scene",
        )
    return files


def area_of_interest(aoi: Any) -> AreaOfInterest:
    """Read an area of interest, see ``aoi`` of :class:`SceneRequest`.

    Raises:
        ConfigError: Four numbers are not a box.
        DataError: The file cannot be read, or has no polygons.
    """
    if isinstance(aoi, AreaOfInterest):
        return aoi
    if isinstance(aoi, str | os.PathLike):
        aoi = read_vectors(aoi, geometries=("Polygon",))
    if isinstance(aoi, geopandas.GeoDataFrame | geopandas.GeoSeries):
        # Manually drawn outlines may self-intersect; the signed area of a bow tie is 0.
        check_finite(aoi.geometry.to_numpy(), "the area of interest")
        shapes = [
            shapely.make_valid(shape)
            for shape in aoi.geometry
            if shape is not None and not shape.is_empty
        ]
        wrong = sorted({shape.geom_type for shape in shapes if shape.area == 0})
        if wrong or not shapes:
            raise DataError(
                "the area of interest has no area",
                expected="polygons",
                found=", ".join(wrong) or "nothing",
                remedy="use a layer of polygons",
            )
        if aoi.crs is None:
            warn_missing_crs("the area of interest", "the scene's")
        crs = None if aoi.crs is None else rasterio.CRS.from_wkt(aoi.crs.to_wkt())
        return AreaOfInterest(tuple(shapes), crs)
    if (box := _box(aoi)) is None:
        raise ConfigError(
            "the area of interest is not a box",
            expected="left, bottom, right, top",
            found=short_repr(aoi),
            remedy="use a box in the scene's CRS, a GeoDataFrame of polygons, or a vector file",
        )
    return AreaOfInterest((shapely.box(*box),))
