"""Maps of scenes: what joins :mod:`hook.scenes` with a checkpoint."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import geopandas
from torch import nn

from hook.apis.scenes import (
    SceneModel,
    area_of_interest,
    check_georeferenced,
    check_scene_options,
    choose_bands,
    scene_files,
    scene_resolution,
    warn_of_resolution,
)
from hook.arguments import file_name, number, refused
from hook.engine.models import default_window, num_classes_of
from hook.errors import ConfigError
from hook.geo.arrays import is_array, raster_files, read_class_map, refuse_resume, require_xarray
from hook.geo.styles import distinct_palette
from hook.geo.vector import DRIVERS
from hook.inference.model_card import model_card
from hook.inference.models import Model, join_checkpoint
from hook.inference.windows import WindowPredictor
from hook.scenes import MapReport, polygonize
from hook.scenes import map_scene as map_with_function
from hook.scenes.forecast import Forecast, forecast
from hook.scenes.grid import overlap_pixels
from hook.scenes.mapping import plan_scene
from hook.scenes.stac import add_vectors, parse_time_span

if TYPE_CHECKING:
    import xarray


class SceneMapper(SceneModel):
    """Maps georeferenced scenes of any size with a model.

    A segmentation gives every pixel its class. A classification gives one to every cell of the
    scene, from the window around it; a cell has the windows' step as its side. Bands, scaling,
    statistics, class names and colours come from the model's ``dataset_meta``.

    Args:
        model: A loaded model, or what :func:`hook.apis.load_model` takes.
        checkpoint: Deprecated: give the pair as ``model``.
        device: Where a model that is not loaded yet runs; several GPUs (``"cuda:0,1"``) share the
            scene.
        num_tokens: Number of tokens per window; None takes the model's.
        tta: Average over flips (``"flip"``) or flips and quarter turns (``"d4"`` or True) of each
            window.
        precision: ``"fp32"`` or ``"bf16"``.
        compile: Compile the model.
        threads: CPU threads of each process; None leaves PyTorch's choice.

    Raises:
        ConfigError: The config or an option cannot be used, or the model cannot map scenes.
        CheckpointError: See :func:`hook.apis.load_model`.

    Example:
        >>> mapper = SceneMapper(("config.py", "checkpoint.pth"))
        >>> report = mapper.map("scene.tif", "map.tif", vectors="map.gpkg")
        >>> land = SceneMapper("model.safetensors").map(rioxarray.open_rasterio("scene.tif"))
    """

    def __init__(
        self,
        model: Model,
        checkpoint: str | os.PathLike | None = None,
        *,
        device: str = "cpu",
        num_tokens: int | None = None,
        tta: str | bool | None = None,
        precision: str = "fp32",
        compile: bool = False,
        threads: int | None = None,
    ) -> None:
        options = dict(
            tta="d4" if tta is True else tta or None, precision=precision, compile=compile
        )
        super().__init__(
            WindowPredictor,
            options,
            join_checkpoint(model, checkpoint),
            device,
            num_tokens,
            threads,
        )

    def map(
        self,
        input: Any,
        output: str | os.PathLike | None = None,
        *,
        window: int | None = None,
        overlap: float = 0.25,
        blend: str = "hann",
        batch_size: int = 4,
        bidx: Sequence[int] | None = None,
        nodata: float | str | None = None,
        aoi: str | os.PathLike | geopandas.GeoDataFrame | Sequence[float] | None = None,
        scores: str | Sequence[str] = (),
        scores_path: str | os.PathLike | None = None,
        vectors: str | os.PathLike | None = None,
        min_area: float = 0,
        simplify: float = 0,
        taken: str | None = None,
        cluster: str | None = None,
        workers: int = 2,
        creation_options: Mapping[str, object] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        progress: bool = True,
        dry_run: bool = False,
    ) -> "MapReport | Forecast | xarray.DataArray":
        """Map a scene.

        Args:
            input: The scene: any raster GDAL opens, several that make up one area (the first in
                front where they overlap), or a TorchGeo dataset of rasters; or an array (bands,
                rows, cols), or an ``xarray.DataArray`` (band, y, x) with CRS, grid and nodata value
                as rioxarray reads them.
            output: The map, ``.tif``, see :func:`hook.scenes.map_scene`. None hands the map back
                as an array.
            window: Side of the model's window in pixels; by default the size the model was made
                for.
            overlap: Of neighbouring windows, a fraction of the window below 1 or whole pixels.
            blend: ``"hann"``, ``"mean"`` or ``"crop"``, see
                :func:`hook.scenes.blending.blend_profile`.
            batch_size: Windows per pass of the model.
            bidx: 1-based bands of the scene in the model's order; by default those that the
                dataset meta names.
            nodata: Replaces the scene's nodata value: a number or ``'nan'``.
            aoi: Map only this area: a vector file of polygons, a table of them, or a box (left,
                bottom, right, top) in the scene's CRS.
            scores: Also write ``"probs"``, ``"entropy"`` or ``"margin"``, or several, see
                :class:`hook.scenes.layers.ScoreLayer`.
            scores_path: Their file; ``<stem>.scores.tif`` beside the map if None.
            vectors: Also write the map's regions as polygons: ``.gpkg``, ``.parquet``, ``.fgb`` or
                ``.geojson``, see :func:`hook.scenes.polygonize`.
            min_area: Dissolve regions below this many square metres into their largest neighbour.
            simplify: Tolerance in units of the scene's CRS within which the edges may be smoothed.
            taken: When the scene was taken, for the map's STAC Item: ``"2024-05-31"``,
                ``"2024-05-31T10:20:30Z"`` or two of these as ``"first/last"``; None: as the tags
                of its files tell.
            cluster: ``"local"`` starts ``workers`` processes here that share the scene; an address
                joins the workers of a Dask scheduler there. None: this process does it all.
            workers: Number of processes of ``cluster="local"``.
            creation_options: Options of GDAL's COG driver.
            resume: Go on with what an interrupted run left.
            overwrite: Replace outputs that exist.
            progress: Show a progress bar on a terminal.
            dry_run: Write nothing; foretell what it would take.

        Returns:
            What was done; with ``dry_run`` what it would take; without ``output`` the map, see
            :func:`hook.geo.arrays.read_class_map`.

        Raises:
            ConfigError: An option cannot be used.
            DataError: The scene lacks the model's bands.
            SceneError: See :func:`hook.scenes.map_scene`.
        """
        window, overlap, batch_size, bidx, workers = check_scene_options(
            window, overlap, batch_size, bidx, cluster, workers
        )
        _check_map_options(min_area, simplify, scores, taken, creation_options)
        _check_names(output=output, scores_path=scores_path, vectors=vectors)
        if output is None or any(map(is_array, input if isinstance(input, list) else [input])):
            options = {k: v for k, v in locals().items() if k not in ("self", "input", "output")}
            return self._map_array(input, output, **options)
        model, segments = self.model, self.function.segments
        meta = model.dataset_meta
        times = None if taken is None else parse_time_span(taken)
        classes = tuple(meta["classes"])
        kinds = (scores,) if isinstance(scores, str) else tuple(scores)
        paths = scene_files(input)
        if vectors is not None:
            others = [*paths, output, *(Path(output).with_suffix(end) for end in (".json", ".qml"))]
            others += [name for name in (scores_path, aoi) if isinstance(name, str | os.PathLike)]
            _check_vectors(Path(vectors), overwrite or resume, others)
            if Path(vectors).suffix.lower() in (".geojson", ".json"):
                check_georeferenced(paths[0], vectors)
        window = default_window(model) if window is None else window
        choices = dict(
            num_classes=num_classes_of(model),
            indexes=choose_bands(model, paths[0], bidx),
            window=window,
            cell=None if segments else window - overlap_pixels(overlap, window),
            overlap=overlap,
            blend=blend,
            batch_size=batch_size,
            class_names=classes,
            palette=meta.get("palette") or distinct_palette(len(classes)),
            nodata=meta.get("nodata") if nodata is None else nodata,
            aoi=area_of_interest(aoi),
            scores=kinds,
            scores_path=scores_path,
            creation_options=creation_options,
        )
        warn_of_resolution(model, "the scene", scene_resolution(paths[0]))
        if dry_run:
            with self.tokens():
                return forecast(self.function, *plan_scene(paths, output, **choices))

        def write_polygons() -> None:
            polygonize(
                output,
                vectors,
                class_names=classes,
                min_area=min_area,
                simplify=simplify,
                # What a polygon's mean score is taken from; entropy says the opposite of one.
                scores=_confidence(kinds, output, scores_path),
                overwrite=overwrite or resume,
                progress=progress,
            )
            add_vectors(Path(output).with_suffix(".json"), vectors)

        fingerprint = self.fingerprint()
        with self.tokens(), self.sharing(cluster, workers) as run_blocks:
            report = map_with_function(
                self.function,
                paths,
                output,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
                fingerprint=fingerprint,
                run_blocks=run_blocks,
                model=model_card(
                    model,
                    self.checkpoint,
                    window=window,
                    hyperparameters={
                        "weights_sha256": fingerprint["weights"],
                        "tokens": _number_of_tokens(model),
                        "overlap": overlap,
                        "blend": blend if segments else None,
                        "batch_size": batch_size,
                        "tta": self.function.tta,
                        "precision": self.function.precision,
                    },
                ),
                times=times,
                finish=write_polygons if vectors is not None else None,
                **choices,
            )
        return report

    def _map_array(self, input: Any, output: Any, **options: Any) -> Any:
        """Map by way of files that vanish: what came as an array, or goes back as one."""
        refuse_resume(options["resume"], output)
        if output is None and options["scores"] and options["scores_path"] is None:
            raise ConfigError(
                "scores need a file",
                expected="output or scores_path",
                found="neither",
                remedy="name a file for them with scores_path",
            )
        if output is None and not options["dry_run"]:
            require_xarray("the map")
        with raster_files(input) as files, TemporaryDirectory(prefix="hook-") as folder:
            target = Path(folder, "map.tif") if output is None else output
            report = self.map(files, target, **options)
            if output is not None or options["dry_run"]:
                return report
            classes = self.model.dataset_meta["classes"]
            palette = self.model.dataset_meta.get("palette") or distinct_palette(len(classes))
            return read_class_map(target, classes, palette)


def _check_map_options(min_area, simplify, scores, taken, creation_options) -> None:
    """Refuse options of the wrong kind, also those that count only once the map is there."""
    number("min_area", min_area, least=0)
    number("simplify", simplify, least=0)
    if not isinstance(scores, str | Sequence):
        raise refused("scores", scores, "'probs', 'entropy' or 'margin', or several of them")
    if not isinstance(taken, str | None):
        raise refused("taken", taken, "a date or two, such as '2024-05-31'")
    if not isinstance(creation_options, Mapping | None):
        raise refused("creation_options", creation_options, "a dict such as {'COMPRESS': 'ZSTD'}")


def _check_names(**files: Any) -> None:
    for name, value in files.items():
        if value is not None:
            file_name(name, value)


def _number_of_tokens(model: nn.Module) -> int | None:
    """Count the tokens of a window, where the model says how many."""
    return getattr(getattr(model.backbone, "tokenizer", None), "num_tokens", None)


def _confidence(kinds: Sequence[str], output, scores_path) -> Path | None:
    """Find the raster of a map's scores, where larger ones mean surer pixels."""
    if not {"probs", "margin"} & set(kinds):
        return None
    return Path(scores_path or Path(output).with_suffix(".scores.tif"))


def _check_vectors(path: Path, overwrite: bool, others: Sequence[str | os.PathLike]) -> None:
    """Refuse a file that could not be written, before the scene is mapped for hours."""
    if path.absolute() in {Path(other).absolute() for other in others}:
        raise ConfigError(
            f"{path}: is another file of this map",
            expected="a name for the polygons alone; beside the map lie its .qml and .json",
            found=path.name,
            remedy="give the vectors another name",
        )
    if path.suffix.lower() not in DRIVERS:
        raise ConfigError(
            f"{path}: unknown vector format",
            expected=f"a name ending in {' or '.join(DRIVERS)}",
            found=path.suffix or "no ending",
            remedy="give the vectors another name",
        )
    if not path.parent.is_dir():
        raise ConfigError(
            f"{path} cannot be written",
            expected=f"an existing folder {path.parent}",
            found="none",
            remedy="create the folder or choose another one",
        )
    if path.exists() and not overwrite:
        raise ConfigError(
            f"{path} exists already",
            expected="a new file",
            found=f"{path.stat().st_size} bytes",
            remedy="choose another name or overwrite (--overwrite)",
        )
