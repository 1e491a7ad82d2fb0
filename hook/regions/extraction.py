"""Extract the token regions of a scene as polygons with statistics and embeddings."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS

from hook.errors import ConfigError, SceneError
from hook.geo.measure import NO_AREAS, has_areas
from hook.geo.staging import check_output
from hook.geo.vector import driver_of
from hook.progress import progress_bar
from hook.regions.layer import FORMATS, write_layer
from hook.regions.merging import Joiner
from hook.regions.plan import (
    STRIDE,
    RegionPlan,
    RegionRequest,
    SeedBatch,
    TokenBatch,
    check_answer,
    check_seeds,
)
from hook.regions.seeds import SeedWriter, area_with_data, tabulate
from hook.regions.strips import StripWriter, read_strips, with_junctions
from hook.scenes.journal import Journal
from hook.scenes.pipeline import (
    Job,
    RunBlocks,
    Scene,
    SceneReport,
    ranges_of,
    report_of_finished,
    run_missing_blocks,
    unfinished,
)
from hook.scenes.reader import SceneReader
from hook.scenes.vector_files import GridSpec

DEFAULT_WINDOW = 224

Tokenize = Callable[[np.ndarray, np.ndarray], TokenBatch | SeedBatch]


@dataclass(frozen=True, kw_only=True)
class RegionReport(SceneReport):
    """Report of :func:`extract_regions`."""

    regions: int
    """Rows of the file."""
    merging_seconds: float = 0.0
    """Part of the time, for merging seeds to regions of the whole scene."""

    def _result(self) -> str:
        return f"{self.regions} regions, "


def extract_regions(
    tokenize: Tokenize | None,
    request: RegionRequest,
    *,
    embed_dims: int,
    class_names: Sequence[str] | None = None,
    band_names: Sequence[str] | None = None,
    refine: bool = False,
    fingerprint: Mapping[str, Any] | None = None,
    run_blocks: RunBlocks | None = None,
) -> RegionReport:
    """Write the token regions of a scene, with statistics and embeddings.

    The pixels of a token are one region. Of overlapping windows only the cores count
    (:meth:`hook.scenes.WindowGrid.core`), so that every pixel with data is in exactly one region,
    and nodata in none. Edges follow pixel edges, and neighbours share the vertices of their common
    edge.

    Fields: ``window_id`` (number of the window in row-major order), ``token_id``, ``class_id``,
    ``class_name`` and ``score`` (with ``class_names``), ``pixels``, ``area_m2`` and
    ``perimeter_m`` (:func:`hook.geo.measure.areas_m2`, ``perimeters_m``; null without a
    CRS), ``mean_<band>`` and ``std_<band>`` (population, native units, over the pixels where all
    bands are valid; null without any), ``embedding``, and the geometry: multipolygons, or polygons
    with ``explode``. The class has the largest token score or, with pixel scores, is the most
    frequent one of the region's pixels (ties: the lower index), with ``score`` its mean
    probability over the region. The embedding is the token's, or with seeds their means and
    standard deviations over the region.

    With ``scale`` or ``regions_per_km2`` regions are those of the whole scene, from a hierarchy of
    merges of its seeds (:func:`hook.regions.hierarchy.merge_scene`); windows only give the seeds.
    ``token_id`` is then the number of a region, in the order of their first seeds, ``window_id``
    the window in which it begins, and the embedding that of its seeds. The records are in the order
    in which regions end. With ``refine`` pixels at borders then change to the neighbouring region
    of like colour (:func:`hook.tokenizers.refine_borders`, in units of the scene's standard
    deviation of each band), whatever the windows; for this the scene is read again.

    Merging joins regions that share an edge along a seam of windows and whose embeddings have a
    cosine above the threshold, transitively: regions of many parts can become one across the scene
    without ``explode``. A merged region has the window and token of its first one, the means of
    embeddings and token scores weighted by pixels, and the statistics of all its pixels.

    Rows of windows are finished one by one. Memory depends on the window, the batch and the
    scene's width, not on its height: 4 bytes per pixel of a row of windows for its labels, the
    polygons being traced, and the regions of two rows of windows while the file is written. With
    ``merge`` also the regions that may continue in the next row, with all their polygons.

    Finished blocks are kept in ``.<output>.unfinished`` next to the output, with the rules of
    :func:`hook.scenes.map_scene` for interruption, ``resume`` and several processes. The bytes of
    the output do not depend on these.

    Args:
        tokenize: Called with windows (B, C, window, window) in native values and dtype, and their
            validity (B, window, window) bool. B is constant: the last window fills up a batch.
            Windows without a valid pixel are skipped. Returns tokens, or for regions of the whole
            scene seeds.
        request: Scene and options; a ``window`` of None means 224 pixels. ``output`` is
            ``.parquet``: GeoParquet 1.1, ``embedding`` a fixed-size list of D float32; or
            ``.gpkg``: GeoPackage, ``embedding`` a BLOB of D little-endian float32.
        embed_dims: Width of the embeddings, D.
        class_names: K names, if ``tokenize`` returns scores.
        band_names: Names of the bands in fields; None: ``1``, ``2``, ...
        refine: Move the borders of regions of the whole scene from seeds to pixels.
        fingerprint: Everything that determines the output of ``tokenize``, JSON-serialisable.
        run_blocks: Runs the blocks on a cluster, see :func:`hook.scenes.cluster.on_cluster`;
            None: in this process.

    Raises:
        SceneError: The scene cannot be read or lacks a band, an option is invalid, the output
            exists or cannot be written, the model's output has a wrong shape or is not finite, or
            the run to resume had different options.
        Exception: Any error of ``tokenize``, unchanged.
    """
    start = time.monotonic()
    if refine and not request.of_scene:
        raise ConfigError(
            "refine is for regions of the whole scene",
            expected="scale or regions_per_km2",
            found="neither",
            remedy="set one of them, or refine the regions of windows in the function of windows",
        )
    scene = Scene.of(request)
    driver = _check_output(request.output, request.inputs)
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
            scale=request.scale,
            regions_per_km2=request.regions_per_km2,
            refine=bool(refine),
            step=STRIDE if request.of_scene else 1,
        )
        crs = reader.crs and CRS.from_user_input(reader.crs)
        grid = GridSpec(crs, reader.transform, reader.height, reader.width)
        run = {**scene.fingerprint(), **dataclasses.asdict(plan)}
        run |= {"layer": request.layer, "model": dict(fingerprint or {})}
        if request.regions_per_km2 is not None and not has_areas(crs):
            raise SceneError(
                f"{scene.paths[0]}: {NO_AREAS}, so regions_per_km2 cannot be counted",
                expected="a CRS with areas",
                found=crs,
                remedy="use scale instead, or georeference the scene",
            )
        if report := report_of_finished(RegionReport, request, run):
            return report
        with unfinished(request, run) as (journal, files):
            staged = files.add(request.output)
            job = SEEDS if plan.of_scene else REGIONS
            resumed = run_missing_blocks(
                job, tokenize, scene, reader, plan, journal, run_blocks, request.progress
            )
            strips, merger, merging = read_strips(journal, plan), None, 0.0
            if plan.of_scene:
                from hook.regions.hierarchy import merge_scene  # imports PyTorch

                began = time.monotonic()
                count = _count_regions(journal, plan, grid)
                regions, ends = merge_scene(journal, plan, count, request.progress)
                merging = time.monotonic() - began
                refiner = None
                if plan.refine:
                    from hook.regions.refinement import MARGIN, BorderRefiner

                    cache = _cache_bytes(reader, plan)
                    refiner = BorderRefiner(reader, plan, journal, regions, len(ends), cache)
                    ends = ends + MARGIN
                strips, merger = tabulate(journal, plan, regions, refiner), Joiner(ends)
            strips = progress_bar(
                with_junctions(strips),
                desc="writing regions",
                total=len(plan.grid.row_offs),
                unit="row",
                show=request.progress,
            )
            with strips:
                count = write_layer(
                    strips, plan, grid, staged, request.output, driver, request.layer, merger
                )
            files.commit()
            done = [journal.read_json(block.note) for block in plan.blocks]
            report = RegionReport(
                regions=count,
                pixels=sum(block["pixels"] for block in done),
                windows=len(plan.grid),
                empty_windows=sum(block["empty"] for block in done),
                seconds=time.monotonic() - start,
                merging_seconds=merging,
                resumed_windows=resumed,
                ranges=ranges_of(done),
            )
            journal.finish(files.finals, dataclasses.asdict(report))
    if not has_areas(grid.crs):
        message = f"{scene.paths[0]}: {NO_AREAS}, so its regions have no area and no perimeter"
        warnings.warn(message, stacklevel=2)
    return report


def _check_output(output: Path, inputs: Sequence[str]) -> str:
    """Check the name of the output, and return its format."""
    driver = driver_of(output, FORMATS, what="format of regions")
    check_output(output, inputs)
    return driver


def _check_bands(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    names = tuple(map(str, names or range(1, count + 1)))
    # Field names of a GeoPackage are case-insensitive.
    if len(names) != count or len({name.casefold() for name in names}) < count:
        raise SceneError(
            "band_names",
            expected=f"{count} names, one per band, all different",
            found=names,
            remedy="use a different name for every band",
        )
    return names


def _cache_bytes(reader: SceneReader, plan: RegionPlan) -> int:
    """Return the size of GDAL's block cache: a row of windows."""
    rows = min(plan.window + 2 * reader.block_height, plan.height)
    return int(np.clip(rows * reader.row_bytes, 16 << 20, 512 << 20))


def _count_regions(journal: Journal, plan: RegionPlan, grid: GridSpec) -> int | None:
    """Return the number of regions of ``regions_per_km2``; None without."""
    if plan.regions_per_km2 is None:
        return None
    return max(round(plan.regions_per_km2 * area_with_data(journal, plan, grid) / 1e6), 1)


# Seams are joined when the file is written, from top to bottom.
REGIONS = Job(check_answer, StripWriter, _cache_bytes)
"""Blocks of :func:`extract_regions`."""

SEEDS = Job(check_seeds, SeedWriter, _cache_bytes)
"""Its blocks for regions of the whole scene."""
