"""Scenes through models: what joins :mod:`hook.scenes` with a checkpoint."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
import torch
from mmengine.config import Config
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from torch import nn

from hook.apis.inference import (
    as_model,
    band_count_of,
    is_segmentation,
    num_classes_of,
    use_tokens,
)
from hook.datasets.bands import resolve_bands, to_model_units
from hook.drawing import distinct_palette
from hook.engine.tta import mean_over_views
from hook.errors import ConfigError, DataError
from hook.scenes import MapReport, polygonize
from hook.scenes import map_scene as map_with_function
from hook.scenes.vectors import DRIVERS
from hook.tokenizers.validity import mark_invalid

_DEFAULT_WINDOW = 512


class WindowPredictor:
    """A segmentation model as the function that :func:`hook.scenes.map_scene` calls.

    Args:
        model: From :func:`hook.apis.load_model`, in evaluation mode.
        tta: Average over flips and quarter turns of each window.

    Raises:
        ConfigError: The model is no segmentation, or in training mode.
    """

    def __init__(self, model: nn.Module, tta: bool = False) -> None:
        if not is_segmentation(model):
            raise ConfigError(
                f"{type(model).__name__} gives one class to a whole image",
                expected="a segmentation config, to map a scene",
                remedy="classify single images with 'hook predict'",
            )
        if model.training:
            raise ConfigError(
                "the model is in training mode", remedy="call model.eval(), as load_model does"
            )
        self.model, self.tta = model, tta
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Predict a batch of windows.

        Args:
            windows: (B, C, h, w) native values in the model's band order.
            valid: (B, h, w) bool.

        Returns:
            (B, K, h, w) float32 class probabilities.
        """
        inputs = torch.from_numpy(to_model_units(windows, valid, self.model.dataset_meta))
        if getattr(self.model.data_preprocessor, "mark_invalid", False):
            inputs = mark_invalid(inputs, torch.from_numpy(valid))
        data = self.model.data_preprocessor({"inputs": list(inputs.to(self.device))}, False)
        inputs = data["inputs"]
        predict = self._probabilities
        try:
            scores = mean_over_views(predict, inputs) if self.tta else predict(inputs)
        except ValueError as error:  # a tokenizer tied to a size says so this way
            raise ConfigError(
                f"windows of {windows.shape[-2]} x {windows.shape[-1]} pixels do not fit the model",
                found=error,
                remedy="leave --window out for the size the model was made for",
            ) from None
        # The preprocessor may have padded the windows to a multiple of what the model wants.
        return scores[..., : windows.shape[-2], : windows.shape[-1]].cpu().numpy()

    def _probabilities(self, inputs: torch.Tensor) -> torch.Tensor:
        size = tuple(inputs.shape[-2:])
        meta = {"ori_shape": size, "img_shape": size, "pad_shape": size}
        logits = self.model.inference(inputs, [meta] * len(inputs)).float()
        if logits.shape[1] > 1:
            return logits.softmax(dim=1)
        positive = logits.sigmoid()  # one output for two classes
        return torch.cat([1 - positive, positive], dim=1)


def default_window(model: nn.Module) -> int:
    """Return the window a model was made for, or 512 where it takes any."""
    tokenizer = getattr(model.backbone, "tokenizer", None)
    size = getattr(tokenizer, "img_size", None)
    if size is None:
        return _DEFAULT_WINDOW
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ConfigError(
            f"the model takes images of {height} x {width} pixels",
            expected="a square size, to map a scene",
            remedy="train with a square img_size",
        )
    return int(height)


def map_scene(
    config_or_model: str | os.PathLike | Config | nn.Module,
    checkpoint: str | os.PathLike | None,
    input: str | os.PathLike,
    output: str | os.PathLike,
    *,
    device: str = "cpu",
    window: int | None = None,
    overlap: float = 0.25,
    batch_size: int = 4,
    bidx: Sequence[int] | None = None,
    nodata: float | str | None = None,
    tta: bool = False,
    num_tokens: int | None = None,
    probabilities: str | os.PathLike | None = None,
    vectors: str | os.PathLike | None = None,
    creation_options: Mapping[str, object] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> MapReport:
    """Map a georeferenced scene of any size with a segmentation model.

    Bands, scaling, statistics, class names and colours come from the model's ``dataset_meta``.

    Args:
        config_or_model: Config, or a model from :func:`hook.apis.load_model`.
        checkpoint: Checkpoint of the config; None with a model.
        input: The scene: any raster GDAL opens.
        output: The map, ``.tif``, see :func:`hook.scenes.map_scene`.
        device: Where the config's model runs.
        window: Side of the model's window in pixels; by default the size the model was made for.
        overlap: Of neighbouring windows, a fraction of the window below 1 or whole pixels.
        batch_size: Windows per pass of the model.
        bidx: 1-based bands of the scene in the model's order; by default those that the dataset
            meta names.
        nodata: Replaces the scene's nodata value: a number or ``'nan'``.
        tta: Average over flips and quarter turns of each window.
        num_tokens: Number of tokens per window; None takes the model's.
        probabilities: Also write the class probabilities to this ``.tif``.
        vectors: Also write the map's regions as polygons: ``.gpkg`` or ``.parquet``.
        creation_options: Options of GDAL's COG driver.
        overwrite: Replace outputs that exist.
        progress: Show a progress bar on a terminal.

    Returns:
        What was done.

    Raises:
        ConfigError: The config or an option cannot be used, or the model cannot map scenes.
        CheckpointError: See :func:`hook.apis.load_model`.
        DataError: The scene lacks the model's bands.
        SceneError: See :func:`hook.scenes.map_scene`.
    """
    model = as_model(config_or_model, checkpoint, device)
    predict = WindowPredictor(model, tta)
    meta = model.dataset_meta
    if vectors is not None:
        _check_vectors(Path(vectors), overwrite)
    classes = tuple(meta["classes"])
    with use_tokens(model, num_tokens):
        report = map_with_function(
            predict,
            input,
            output,
            num_classes=num_classes_of(model),
            indexes=_choose_bands(model, input, bidx),
            window=window or default_window(model),
            overlap=overlap,
            batch_size=batch_size,
            class_names=classes,
            palette=meta.get("palette") or distinct_palette(len(classes)),
            nodata=meta.get("nodata") if nodata is None else nodata,
            probabilities=probabilities,
            overwrite=overwrite,
            progress=progress,
            creation_options=creation_options,
        )
    if vectors is not None:
        polygonize(output, vectors, class_names=classes, overwrite=overwrite, progress=progress)
    return report


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
