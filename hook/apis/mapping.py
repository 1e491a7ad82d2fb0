"""Scenes through models: what joins :mod:`hook.scenes` with a checkpoint."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
import torch
from mmengine.config import Config
from pyogrio.errors import DataSourceError
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from torch import nn
from torchgeo.datasets import GeoDataset

from hook import __version__
from hook.apis.inference import (
    as_model,
    band_count_of,
    default_window,
    is_segmentation,
    load_model,
    num_classes_of,
    use_tokens,
)
from hook.apis.profiling import require_compiler
from hook.apis.provenance import model_fields
from hook.datasets.bands import resolve_bands, to_model_units
from hook.drawing import distinct_palette
from hook.engine import tta as tta_views
from hook.errors import ConfigError, DataError
from hook.scenes import MapReport, polygonize
from hook.scenes import map_scene as map_with_function
from hook.scenes.cluster import connect, on_cluster
from hook.scenes.forecast import Forecast, forecast
from hook.scenes.grid import overlap_pixels
from hook.scenes.mapping import plan_scene
from hook.scenes.reader import AreaOfInterest
from hook.scenes.stac import add_vectors, parse_time_span
from hook.scenes.vectors import DRIVERS
from hook.tokenizers.validity import mark_invalid

PRECISIONS = ("fp32", "bf16")


class WindowPredictor:
    """A model as the function that :func:`hook.scenes.map_scene` calls.

    Args:
        model: From :func:`hook.apis.load_model`, in evaluation mode.
        tta: Average over views of each window, ``"flip"`` or ``"d4"``
            (:func:`hook.engine.tta.views`); None: the window as it is.
        precision: ``"fp32"``, or ``"bf16"`` for automatic mixed precision.
        compile: Compile the model; the first batch then takes longer.

    Raises:
        ConfigError: The model is in training mode, or an option is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        tta: str | None = None,
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        if model.training:
            raise ConfigError(
                "the model is in training mode", remedy="call model.eval(), as load_model does"
            )
        for name, value, known in (
            ("tta", tta, (None, *tta_views.KINDS)),
            ("precision", precision, PRECISIONS),
        ):
            if value not in known:
                raise ConfigError(f"unknown {name}", expected=f"one of {known}", found=value)
        self.model, self.tta, self.precision = model, tta, precision
        self.device = next(model.parameters()).device
        self.segments = is_segmentation(model)
        self._forward = model.inference if self.segments else model.forward
        if compile:
            require_compiler()
            self._forward = torch.compile(self._forward)

    @torch.inference_mode()
    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Predict a batch of windows.

        Args:
            windows: (B, C, h, w) native values in the model's band order.
            valid: (B, h, w) bool.

        Returns:
            (B, K, h, w) float32 class probabilities of a segmentation, (B, K) of a classification.
        """
        inputs = torch.from_numpy(to_model_units(windows, valid, self.model.dataset_meta))
        if getattr(self.model.data_preprocessor, "mark_invalid", False):
            inputs = mark_invalid(inputs, torch.from_numpy(valid))
        data = self.model.data_preprocessor({"inputs": list(inputs.to(self.device))}, False)
        inputs = data["inputs"]
        predict = self._probabilities
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                if self.tta:
                    scores = tta_views.mean_over_views(predict, inputs, self.tta)
                else:
                    scores = predict(inputs)
        except ValueError as error:  # a tokenizer tied to a size says so this way
            raise ConfigError(
                f"windows of {windows.shape[-2]} x {windows.shape[-1]} pixels do not fit the model",
                found=error,
                remedy="leave --window out for the size the model was made for",
            ) from None
        if not self.segments:
            return scores.cpu().numpy()
        # The preprocessor may have padded the windows to a multiple of what the model wants.
        return scores[..., : windows.shape[-2], : windows.shape[-1]].cpu().numpy()

    def _probabilities(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.segments:
            return self._forward(inputs).float().softmax(dim=1)
        size = tuple(inputs.shape[-2:])
        meta = {"ori_shape": size, "img_shape": size, "pad_shape": size}
        logits = self._forward(inputs, [meta] * len(inputs)).float()
        if logits.shape[1] > 1:
            return logits.softmax(dim=1)
        positive = logits.sigmoid()  # one output for two classes
        return torch.cat([1 - positive, positive], dim=1)


@dataclass(frozen=True)
class MakePredictor:
    """Loads a model and makes its :class:`WindowPredictor`, in whichever process calls it.

    Args:
        cfg: The config.
        checkpoint: Its checkpoint.
        options: Of :class:`WindowPredictor`.
        num_tokens: See :func:`map_scene`.
        threads: CPU threads of the process; None leaves them.
    """

    cfg: dict[str, Any]
    checkpoint: str
    options: dict[str, Any]
    num_tokens: int | None
    threads: int | None

    def __call__(self, device: str | None) -> WindowPredictor:
        """Load the model onto a device."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        model = load_model(Config(self.cfg), self.checkpoint, device or "cpu")
        if self.num_tokens is not None:
            # For the life of this process; the context manager only lends it.
            ExitStack().enter_context(use_tokens(model, self.num_tokens))
        return WindowPredictor(model, **self.options)


def map_scene(
    config_or_model: str | os.PathLike | Config | nn.Module,
    checkpoint: str | os.PathLike | None,
    input: str | os.PathLike | Sequence[str | os.PathLike] | GeoDataset,
    output: str | os.PathLike,
    *,
    device: str = "cpu",
    window: int | None = None,
    overlap: float = 0.25,
    blend: str = "hann",
    batch_size: int = 4,
    bidx: Sequence[int] | None = None,
    nodata: float | str | None = None,
    aoi: str | os.PathLike | geopandas.GeoDataFrame | Sequence[float] | None = None,
    tta: str | bool | None = None,
    num_tokens: int | None = None,
    scores: str | Sequence[str] = (),
    scores_path: str | os.PathLike | None = None,
    vectors: str | os.PathLike | None = None,
    min_area: float = 0,
    simplify: float = 0,
    taken: str | None = None,
    precision: str = "fp32",
    compile: bool = False,
    threads: int | None = None,
    cluster: str | None = None,
    workers: int = 2,
    creation_options: Mapping[str, object] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    dry_run: bool = False,
) -> MapReport | Forecast:
    """Map a georeferenced scene of any size.

    A segmentation gives every pixel its class. A classification gives one to every cell of the
    scene, from the window around it; a cell has the windows' step as its side. Bands, scaling,
    statistics, class names and colours come from the model's ``dataset_meta``.

    Args:
        config_or_model: Config, or a model from :func:`hook.apis.load_model`.
        checkpoint: Checkpoint of the config; None with a model.
        input: The scene: any raster GDAL opens, several that make up one area (the first in front
            where they overlap), or a TorchGeo dataset of rasters.
        output: The map, ``.tif``, see :func:`hook.scenes.map_scene`.
        device: Where the config's model runs; several GPUs (``"cuda:0,1"``) share the scene.
        window: Side of the model's window in pixels; by default the size the model was made for.
        overlap: Of neighbouring windows, a fraction of the window below 1 or whole pixels.
        blend: ``"hann"``, ``"mean"`` or ``"crop"``, see
            :func:`hook.scenes.blending.blend_profile`.
        batch_size: Windows per pass of the model.
        bidx: 1-based bands of the scene in the model's order; by default those that the dataset
            meta names.
        nodata: Replaces the scene's nodata value: a number or ``'nan'``.
        aoi: Map only this area: a vector file of polygons, a table of them, or a box (left,
            bottom, right, top) in the scene's CRS.
        tta: Average over flips (``"flip"``) or flips and quarter turns (``"d4"`` or True) of each
            window.
        num_tokens: Number of tokens per window; None takes the model's.
        scores: Also write ``"probs"``, ``"entropy"`` or ``"margin"``, or several, see
            :class:`hook.scenes.layers.ScoreLayer`.
        scores_path: Their file; ``<stem>.scores.tif`` beside the map if None.
        vectors: Also write the map's regions as polygons: ``.gpkg``, ``.parquet``, ``.fgb`` or
            ``.geojson``, see :func:`hook.scenes.polygonize`.
        min_area: Dissolve regions below this many square metres into their largest neighbour.
        simplify: Tolerance in units of the scene's CRS within which the edges may be smoothed.
        taken: When the scene was taken, for the map's STAC Item: ``"2024-05-31"``,
            ``"2024-05-31T10:20:30Z"`` or two of these as ``"first/last"``; None: as the tags of
            its files tell.
        precision: ``"fp32"`` or ``"bf16"``.
        compile: Compile the model.
        threads: CPU threads of each process; None leaves PyTorch's choice.
        cluster: ``"local"`` starts ``workers`` processes here that share the scene; an address
            joins the workers of a Dask scheduler there. None: this process does it all.
        workers: Number of processes of ``cluster="local"``.
        creation_options: Options of GDAL's COG driver.
        resume: Go on with what an interrupted run left.
        overwrite: Replace outputs that exist.
        progress: Show a progress bar on a terminal.
        dry_run: Write nothing; foretell what it would take.

    Returns:
        What was done, or with ``dry_run`` what it would take.

    Raises:
        ConfigError: The config or an option cannot be used, or the model cannot map scenes.
        CheckpointError: See :func:`hook.apis.load_model`.
        DataError: The scene lacks the model's bands.
        SceneError: See :func:`hook.scenes.map_scene`.
    """
    tta = "d4" if tta is True else tta or None
    devices = _devices(device)
    if threads is not None:
        torch.set_num_threads(threads)
    model = as_model(config_or_model, checkpoint, devices[0])
    predict = WindowPredictor(model, tta, precision, compile)
    meta = model.dataset_meta
    if vectors is not None:
        _check_vectors(Path(vectors), overwrite or resume)
    times = None if taken is None else parse_time_span(taken)
    classes = tuple(meta["classes"])
    kinds = (scores,) if isinstance(scores, str) else tuple(scores)
    paths = _paths(input)
    options = dict(tta=tta, precision=precision, compile=compile)
    fingerprint = {
        "config": _digest(model.cfg.pretty_text.encode()),
        "weights": _digest_of_weights(model),
        "tokens": num_tokens,
        "device": predict.device.type,
        "threads": torch.get_num_threads(),
        "versions": [__version__, torch.__version__],
        **options,
    }
    with use_tokens(model, num_tokens), ExitStack() as stack:
        run_blocks = None
        if (cluster is not None or len(devices) > 1) and not dry_run:
            if isinstance(config_or_model, nn.Module):
                raise ConfigError(
                    "a loaded model cannot be sent to several workers",
                    expected="a config and its checkpoint",
                    remedy="give these, or leave cluster out",
                )
            client = stack.enter_context(connect(cluster or "local", max(workers, len(devices))))
            make = MakePredictor(
                model.cfg.to_dict(),
                str(Path(checkpoint).absolute()),
                options,
                num_tokens,
                torch.get_num_threads(),
            )
            key = _digest(json.dumps([fingerprint, str(checkpoint)], default=str).encode())
            run_blocks = on_cluster(client, make, key, devices)
        window = window or default_window(model)
        cell = None if predict.segments else window - overlap_pixels(overlap, window)
        choices = dict(
            num_classes=num_classes_of(model),
            indexes=_choose_bands(model, paths[0], bidx),
            window=window,
            cell=cell,
            overlap=overlap,
            blend=blend,
            batch_size=batch_size,
            class_names=classes,
            palette=meta.get("palette") or distinct_palette(len(classes)),
            nodata=meta.get("nodata") if nodata is None else nodata,
            aoi=_area_of_interest(aoi),
            scores=kinds,
            scores_path=scores_path,
            creation_options=creation_options,
        )
        if dry_run:
            return forecast(predict, *plan_scene(paths, output, **choices))
        report = map_with_function(
            predict,
            paths,
            output,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            fingerprint=fingerprint,
            run_blocks=run_blocks,
            model=model_fields(
                model,
                checkpoint,
                window=window,
                hyperparameters={
                    "weights_sha256": fingerprint["weights"],
                    "tokens": _number_of_tokens(model),
                    "overlap": overlap,
                    "blend": blend if predict.segments else None,
                    "batch_size": batch_size,
                    "tta": tta,
                    "precision": precision,
                },
            ),
            times=times,
            **choices,
        )
    if vectors is not None:
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
    return report


def _number_of_tokens(model: nn.Module) -> int | None:
    """Count the tokens of a window, where the model says how many."""
    return getattr(getattr(model.backbone, "tokenizer", None), "num_tokens", None)


def _confidence(kinds: Sequence[str], output, scores_path) -> Path | None:
    """Find the raster of a map's scores, where larger ones mean surer pixels."""
    if tuple(kinds) not in (("probs",), ("margin",)):
        return None
    return Path(scores_path or Path(output).with_suffix(".scores.tif"))


def _devices(device: str) -> list[str]:
    """Read ``"cuda:0,1"`` as two devices."""
    kind, colon, numbers = device.partition(":")
    if "," not in numbers:
        return [device]
    return [f"{kind}{colon}{number.strip()}" for number in numbers.split(",")]


def _paths(input) -> tuple[str, ...]:
    """List the files of an input."""
    if isinstance(input, GeoDataset):
        files = sorted(str(path) for path in getattr(input, "files", ()))
        if not files:
            raise DataError(
                f"{type(input).__name__} has no raster files",
                expected="a TorchGeo RasterDataset with files",
                remedy="give the files themselves",
            )
        return tuple(files)
    if isinstance(input, str | os.PathLike):
        return (os.fspath(input),)
    return tuple(os.fspath(path) for path in input)


def _area_of_interest(aoi) -> AreaOfInterest | None:
    """Read an area of interest."""
    if aoi is None:
        return None
    if isinstance(aoi, str | os.PathLike):
        try:
            aoi = geopandas.read_file(aoi)
        except (DataSourceError, OSError) as error:
            raise DataError(
                f"{aoi} cannot be read",
                expected="a vector file of polygons, such as a GeoPackage or GeoJSON",
                found=error,
                remedy="check the path",
            ) from None
    if isinstance(aoi, geopandas.GeoDataFrame | geopandas.GeoSeries):
        shapes = [shape for shape in aoi.geometry if shape is not None]
        wrong = sorted({shape.geom_type for shape in shapes if shape.area == 0})
        if wrong or not shapes:
            raise DataError(
                "the area of interest is no area",
                expected="polygons",
                found=", ".join(wrong) or "nothing",
                remedy="give a layer of polygons",
            )
        crs = None if aoi.crs is None else rasterio.CRS.from_wkt(aoi.crs.to_wkt())
        return AreaOfInterest(tuple(shapes), crs)
    box = tuple(float(value) for value in aoi)
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise ConfigError(
            "the area of interest is no box", expected="left, bottom, right, top", found=box
        )
    return AreaOfInterest((shapely.box(*box),))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of_weights(model: nn.Module) -> str:
    """Checksum of all weights and buffers of a model."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def _check_vectors(path: Path, overwrite: bool) -> None:
    """Refuse a file that could not be written, before the scene is mapped for hours."""
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
            remedy="create the folder or choose another one",
        )
    if path.exists() and not overwrite:
        raise ConfigError(
            f"{path} exists already", remedy="choose another name or overwrite (--overwrite)"
        )


def _choose_bands(model: nn.Module, scene, bidx: Sequence[int] | None) -> list[int] | None:
    """Find the model's bands in the scene; compare their number with what the model takes."""
    wanted = band_count_of(model)
    bands = bidx or model.dataset_meta.get("bands")
    if bands is None and wanted is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(scene) as source:
                if bands is None:
                    indexes = [
                        index
                        for index, kind in zip(source.indexes, source.colorinterp, strict=True)
                        if kind != ColorInterp.alpha
                    ]
                else:
                    indexes = resolve_bands(source, list(bands))
        except (RasterioError, OSError) as error:
            raise DataError(
                f"scene {scene} cannot be opened",
                expected="a raster that GDAL reads, such as a GeoTIFF",
                found=str(error).splitlines()[0],
                remedy="check the path and that the file is complete",
            ) from None
    if wanted is not None and len(indexes) != wanted:
        raise DataError(
            f"scene {scene}: the model takes another number of bands",
            expected=f"{wanted} bands",
            found=f"{len(indexes)} bands",
            remedy="choose them in the model's order with --bidx",
        )
    return indexes
