"""The tokens of a scene's windows as polygons with statistics and embeddings."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS

from hook.errors import SceneError
from hook.geo.vector import driver_of
from hook.progress import progress_bar
from hook.regions.layer import FORMATS, write_layer
from hook.regions.plan import RegionPlan, RegionRequest, TokenBatch, check_answer
from hook.regions.strips import StripWriter, read_strips
from hook.scenes.pipeline import (
    Job,
    RunBlocks,
    Scene,
    refuse_input,
    run_missing_blocks,
    unfinished,
)
from hook.scenes.reader import SceneReader
from hook.scenes.vector_files import Place

DEFAULT_WINDOW = 224

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

    def __str__(self) -> str:
        return (
            f"{self.regions} regions, {self.pixels} pixels, {self.windows} windows "
            f"({self.empty_windows} empty), {self.seconds:.1f} s"
        )


def extract_regions(
    tokenize: Tokenize | None,
    request: RegionRequest,
    *,
    embed_dims: int,
    class_names: Sequence[str] | None = None,
    band_names: Sequence[str] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    run_blocks: RunBlocks | None = None,
) -> RegionReport:
    """Write the regions of the tokens of a whole scene, with statistics and embeddings.

    A window's pixels belong to its tokens; each token's pixels make one region. Where windows
    overlap, only their cores count (:meth:`hook.scenes.WindowGrid.core`), so that every pixel
    with data lies in exactly one region, and what is nodata in none. Edges follow pixel edges, and
    neighbours have the same vertices along their common edge.

    Fields: ``window_id`` (number of the window in row-major order), ``token_id``, ``class_id``,
    ``class_name`` and ``score`` (with ``class_names``), ``pixels``, ``area_m2`` and
    ``perimeter_m`` (:func:`hook.geo.measure.areas_m2`, ``perimeters_m``; null without a
    CRS), ``mean_<band>`` and ``std_<band>`` (of the population, native units, over the pixels
    where all bands are valid; null where none is), ``embedding``, and the geometry: multipolygons,
    or with ``explode`` polygons. With scores of tokens the class is that of the largest score;
    with scores of pixels the most frequent one among the region's pixels, the lower index of
    equals, and ``score`` is its mean probability over the region. The embedding is the token's;
    where ``tokenize`` gives seeds, it is their means and standard deviations over the region.

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
        request: What is asked; a ``window`` of None means 224 pixels. ``output`` is ``.parquet``:
            GeoParquet 1.1, ``embedding`` a fixed-size list of D float32; or ``.gpkg``: GeoPackage,
            ``embedding`` a BLOB of D little-endian float32, as the layer's metadata says.
        embed_dims: Width of the embeddings, D.
        class_names: K names, where ``tokenize`` gives scores.
        band_names: Names of the bands in the names of fields; ``1``, ``2``, ... if None.
        fingerprint: What decides the answers of ``tokenize``, as JSON can hold it.
        run_blocks: Runs the blocks elsewhere, see :func:`hook.scenes.cluster.on_cluster`; None:
            here.

    Returns:
        What was done.

    Raises:
        SceneError: The scene cannot be read or lacks a band, an option is impossible, the output
            exists or cannot be written, the model's answer has another shape or is not finite, or
            the run to resume was another one.
        Exception: Whatever ``tokenize`` raises, unchanged.
    """
    begun = time.monotonic()
    scene = Scene.of(request)
    driver = _check_output(request.output, scene.paths)
    with scene.open() as reader:
        plan = RegionPlan(
            height=reader.height,
            width=reader.width,
            window=request.window or DEFAULT_WINDOW,
            overlap=request.overlap,
            batch_size=request.batch_size,
            block_windows=request.block_windows,
            embed_dims=int(embed_dims),
            bands=_check_bands(band_names, len(reader.indexes)),
            class_names=None if class_names is None else tuple(map(str, class_names)),
            explode=bool(request.explode),
            merge=float(request.merge_threshold) if request.merge else None,
        )
        place = Place(reader.crs and CRS.from_user_input(reader.crs), reader.transform)
        decisive = {**scene.fingerprint(), **dataclasses.asdict(plan)}
        decisive |= {"layer": request.layer, "model": dict(fingerprint or {})}
        with unfinished(request, decisive) as (journal, files):
            staged = files.add(request.output)
            resumed = run_missing_blocks(
                REGIONS, tokenize, scene, reader, plan, journal, run_blocks, request.progress
            )
            strips = progress_bar(
                read_strips(journal, plan),
                desc="writing regions",
                total=len(plan.grid.row_offs),
                unit="row",
                show=request.progress,
            )
            with strips:
                count = write_layer(
                    strips, plan, place, staged, request.output, driver, request.layer
                )
            files.commit()
            done = [journal.read_json(block.note) for block in plan.blocks]
    if place.crs is None:
        warnings.warn(
            f"{scene.paths[0]}: no CRS, so its regions have no area and no perimeter", stacklevel=2
        )
    return RegionReport(
        regions=count,
        pixels=sum(block["pixels"] for block in done),
        windows=len(plan.grid),
        empty_windows=sum(block["empty"] for block in done),
        seconds=time.monotonic() - begun,
        resumed_windows=resumed,
    )


def _check_output(output: Path, inputs: Sequence[str]) -> str:
    """Refuse names that are no output's; give the format."""
    driver = driver_of(output, FORMATS, what="format of regions")
    refuse_input(output, inputs)
    return driver


def _check_bands(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    names = tuple(map(str, names or range(1, count + 1)))
    # Fields of a GeoPackage are told apart without regard to case.
    if len(names) != count or len({name.casefold() for name in names}) < count:
        raise SceneError(
            "band_names",
            expected=f"{count} names, one per band, all different",
            found=names,
            remedy="give a name of its own to every band",
        )
    return names


def _cache_bytes(reader: SceneReader, plan: RegionPlan) -> int:
    """Give the size of GDAL's block cache: a row of windows."""
    rows = min(plan.window + 2 * reader.block_height, plan.height)
    return int(np.clip(rows * reader.row_bytes, 16 << 20, 512 << 20))


# Seams are seen to when the file is written, from top to bottom.
REGIONS = Job(check_answer, StripWriter, _cache_bytes)
"""Blocks of :func:`extract_regions`."""
