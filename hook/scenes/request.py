"""What is asked of a whole scene: one value, checked once, from the caller down to the raster."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely

from hook.arguments import bad_argument, check_int, check_number, check_path, short_repr
from hook.errors import ConfigError, DataError
from hook.geo.arrays import is_array
from hook.geo.vector import read_vectors, warn_of_missing_crs
from hook.scenes.blocks import WINDOWS_PER_BLOCK
from hook.scenes.grid import check_overlap
from hook.scenes.reader import AreaOfInterest
from hook.scenes.stac import TimeSpan, parse_time_span


@dataclass(frozen=True)
class SceneRequest:
    """Options of everything that is made from a whole scene, window by window.

    Args:
        input: The scene: any raster that GDAL opens, several that make up one area (the first in
            front where they overlap), or a TorchGeo dataset of rasters. Becomes the names of the
            files. :mod:`hook.apis` also takes an array (bands, rows, cols), or an
            ``xarray.DataArray`` (band, y, x) with CRS, grid and nodata value as rioxarray reads
            them.
        output: File to write. :mod:`hook.apis` returns the result where it is None.
        window: Side of the model's window in pixels; None for the size the model was made for. A
            smaller scene is extended by reflection.
        overlap: Overlap of neighbouring windows, a fraction of the window below 1 or whole pixels.
        batch_size: Windows per pass of the model.
        bidx: 1-based bands of the scene in the model's order; None for those that the model's
            dataset meta names, or without these for all bands but alpha.
        nodata: Replaces the scene's nodata value: a number or ``"nan"``.
        aoi: Area of interest; only its bounding box is processed, and in it only what lies inside:
            a vector file of polygons, a table of them, or a box (left, bottom, right, top) in the
            scene's CRS. Becomes an :class:`hook.scenes.reader.AreaOfInterest`.
        cluster: ``"local"`` starts ``workers`` processes on this machine that share the scene; an
            address joins the workers of the Dask scheduler there. None: this process alone.
        workers: Number of processes of ``cluster="local"``.
        resume: Continue an interrupted run; start where there is none.
        overwrite: Replace outputs that exist and, without ``resume``, what an interrupted run left.
        progress: Show a progress bar on a terminal.
        block_windows: Minimum number of windows of a block, the unit of resuming and of sharing.

    Raises:
        ConfigError: An option has the wrong type or an impossible value.
        DataError: A dataset has no files, or the area of interest is none or cannot be read.
    """

    input: Any
    output: str | os.PathLike | None = None
    _: KW_ONLY
    window: int | None = None
    overlap: float = 0.25
    batch_size: int = 4
    bidx: Sequence[int | str] | None = None
    nodata: float | str | None = None
    aoi: Any = None
    cluster: str | None = None
    workers: int = 2
    resume: bool = False
    overwrite: bool = False
    progress: bool = True
    block_windows: int = WINDOWS_PER_BLOCK

    _outputs = ("output",)

    def __post_init__(self) -> None:
        if not self.has_arrays:
            self._set(input=scene_files(self.input))
        if self.window is not None:
            self._set(window=check_int("window", self.window))
        for name in ("batch_size", "workers", "block_windows"):
            self._set(**{name: check_int(name, getattr(self, name))})
        # JSON, and with it the fingerprint of an unfinished run, knows no numbers of NumPy.
        overlap = self.overlap.item() if isinstance(self.overlap, np.generic) else self.overlap
        self._set(overlap=check_overlap(overlap, self.window))
        if not isinstance(self.cluster, str | None):
            raise bad_argument(
                "cluster", self.cluster, "'local', or the address of a Dask scheduler"
            )
        if self.bidx is not None:
            if isinstance(self.bidx, str) or not isinstance(self.bidx, Sequence | np.ndarray):
                raise bad_argument("bidx", self.bidx, "a list of bands, from 1, such as [3, 2, 1]")
            # Names too, as the dataset meta may have.
            bands = [b if isinstance(b, str) else check_int("bidx", b) for b in self.bidx]
            self._set(bidx=tuple(bands))
        for name in self._outputs:
            self._check_output(name)
        if self.aoi is not None:
            self._set(aoi=area_of_interest(self.aoi))

    @property
    def in_memory(self) -> bool:
        """Whether the scene comes as an array, or the result goes back as one."""
        return self.output is None or self.has_arrays

    @property
    def has_arrays(self) -> bool:
        """Whether the scene, or a part of it, is an array and not a file."""
        parts = self.input if isinstance(self.input, list | tuple) else [self.input]
        return any(map(is_array, parts))

    def _set(self, **values: Any) -> None:
        """Replace options by what was read from them."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_output(self, name: str) -> None:
        """Take the name of a file to write as a path."""
        if getattr(self, name) is None:
            return
        path = check_path(name, getattr(self, name))
        self._set(**{name: path})
        # The area is read now, and its file would be overwritten later.
        if isinstance(self.aoi, str | os.PathLike) and Path(self.aoi).absolute() == path.absolute():
            raise bad_argument(name, path, "another file than the area of interest")


@dataclass(frozen=True)
class MapRequest(SceneRequest):
    """Options of a map, see :func:`hook.scenes.map_scene`: those of any scene, and these.

    Args:
        blend: ``"hann"``, ``"mean"`` or ``"crop"``, see
            :func:`hook.scenes.blending.blend_profile`.
        out_nodata: Value of the map where no band of the scene is valid; None for 255 (65535 above
            255 classes).
        scores: Also write ``"probs"``, ``"entropy"`` or ``"margin"``, or several, see
            :class:`hook.scenes.layers.ScoreLayer`.
        scores_path: File of the scores; None for ``<stem>.scores.tif`` beside the map.
        vectors: Also write the regions of one class as polygons: ``.gpkg``, ``.parquet``, ``.fgb``
            or ``.geojson``, see :func:`hook.scenes.polygonize`.
        min_area: Dissolve polygons below this many square metres into their largest neighbour.
        simplify: Tolerance of the polygons' edges in units of the scene's CRS.
        datetime: Time of the scene for the map's STAC Item: ``"2024-05-31"``,
            ``"2024-05-31T10:20:30Z"`` or two of these as ``"first/last"``; None for that in the
            tags of the scene's files.
        creation_options: Options of GDAL's COG driver, such as ``{"COMPRESS": "ZSTD"}``.
        dry_run: Write nothing; estimate windows, memory, disk and time.

    Raises:
        SceneError: ``datetime`` is no time.
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
        if not isinstance(self.creation_options, Mapping | None):
            expected = "a dict such as {'COMPRESS': 'ZSTD'}"
            raise bad_argument("creation_options", self.creation_options, expected)
        if self.output is None and self.scores and self.scores_path is None:
            raise ConfigError(
                "scores need a file",
                expected="output or scores_path",
                found="neither",
                remedy="name a file for them with scores_path",
            )

    @property
    def times(self) -> TimeSpan | None:
        """First and last moment of the scene, where ``datetime`` tells."""
        return None if self.datetime is None else parse_time_span(self.datetime)

    @property
    def scores_file(self) -> Path | None:
        """File of the scores; None where none are asked for."""
        if not self.scores:
            return None
        return self.scores_path or self.output.with_suffix(".scores.tif")


def scene_files(input: Any) -> tuple[str, ...]:
    """List the files of a scene.

    Args:
        input: See :class:`SceneRequest`; no array.

    Raises:
        ConfigError: It names no file.
        DataError: A dataset has no files.
    """
    if isinstance(input, str | os.PathLike):
        return (os.fspath(input),)
    # Known by name: importing TorchGeo for a check takes a second.
    is_dataset = any(kind.__name__ == "GeoDataset" for kind in type(input).__mro__)
    if is_dataset:
        input = sorted(map(str, getattr(input, "files", ())))
        if not input:
            raise DataError(
                "the scene is a dataset without raster files",
                expected="a TorchGeo RasterDataset with files",
                remedy="give the files themselves",
            )
    try:
        # A table would be gone through by the names of its columns.
        files = () if hasattr(input, "columns") else tuple(os.fspath(path) for path in input)
    except TypeError:
        files = ()
    if not files:
        raise ConfigError(
            "input: no scene to read",
            expected="a file's name, a list of them, a TorchGeo dataset, or an array",
            found=short_repr(input),
            remedy="name the scene's file",
        )
    return files


def area_of_interest(aoi: Any) -> AreaOfInterest:
    """Read an area of interest.

    Args:
        aoi: See :class:`SceneRequest`.

    Raises:
        ConfigError: Four numbers are no box.
        DataError: The file cannot be read, or holds no polygons.
    """
    if isinstance(aoi, AreaOfInterest):
        return aoi
    if isinstance(aoi, str | os.PathLike):
        aoi = read_vectors(aoi)
    if isinstance(aoi, geopandas.GeoDataFrame | geopandas.GeoSeries):
        # Drawn by hand, outlines cross themselves; the area of a bow tie is then 0.
        shapes = [shapely.make_valid(shape) for shape in aoi.geometry if shape is not None]
        wrong = sorted({shape.geom_type for shape in shapes if shape.area == 0})
        if wrong or not shapes:
            raise DataError(
                "the area of interest is no area",
                expected="polygons",
                found=", ".join(wrong) or "nothing",
                remedy="give a layer of polygons",
            )
        if aoi.crs is None:
            warn_of_missing_crs("the area of interest", "the scene's")
        crs = None if aoi.crs is None else rasterio.CRS.from_wkt(aoi.crs.to_wkt())
        return AreaOfInterest(tuple(shapes), crs)
    try:
        box = tuple(float(value) for value in aoi)
    except (TypeError, ValueError):
        box = ()
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise ConfigError(
            "the area of interest is no box",
            expected="left, bottom, right, top",
            found=box or repr(aoi)[:80],
            remedy="give a box in the scene's CRS, a table of polygons, or the name of their file",
        )
    return AreaOfInterest((shapely.box(*box),))
