"""Predict classes or masks of single images."""

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import torch
from torch import nn

from hook.arguments import bad_argument, check_bands, check_int, check_path
from hook.engine.models import is_segmentation
from hook.engine.tta import KINDS as TTA_KINDS
from hook.errors import ConfigError, DataError
from hook.evaluation.samples import warn_no_prediction, without_class
from hook.geo.arrays import is_array
from hook.geo.bands import value_range
from hook.geo.staging import check_output, replaced_by
from hook.geo.styles import map_dtype
from hook.inference.images import ValueCheck, inference_pipeline, read_sample
from hook.inference.models import (
    Model,
    chosen_tokens,
    join_checkpoint,
    load_model,
    model_files,
    require_classes,
)
from hook.progress import progress_bar


class Prediction(NamedTuple):
    """Prediction of one image."""

    file: str
    """Name of the image."""
    label: str | None
    """Class name of a classification; None if the image has no valid pixel, or the scores are not
    finite."""
    scores: np.ndarray | None
    """(K,) probabilities of a classification; NaN for an image without a valid pixel."""
    mask: np.ndarray | None
    """(H, W) class indexes of a segmentation, 255 (65535 beyond 255 classes) where the image has no
    data or the scores are not finite; None if written."""
    output: str | None
    """File the mask was written to."""
    geo: Mapping[str, Any] | None = None
    """Georeference: ``crs`` (WKT, or None), ``transform``, ``height`` and ``width``."""


def _one_model(function: Callable) -> Callable:
    """Accept the deprecated arguments (config, checkpoint, files, out) too."""

    @functools.wraps(function)
    def call(model: Model, *args: Any, **options: Any) -> list[Prediction]:
        if args and (args[0] is None or (len(args) > 1 and isinstance(args[1], list | tuple))):
            checkpoint, *args = args
            pair = join_checkpoint(model, checkpoint or "")  # warns, also of a model with None
            model = pair if checkpoint else model
        return function(model, *args, **options)

    return call


@_one_model
def predict_files(
    model: Model,
    files: Sequence[str | os.PathLike],
    out: str | os.PathLike | None = None,
    *,
    device: str = "cpu",
    batch_size: int = 8,
    tta: str | bool | None = None,
    num_tokens: int | None = None,
    bidx: Sequence[int | str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Prediction]:
    """Classify or segment single images, each as a whole, with the config's test pipeline.

    Args:
        model: A loaded model, or argument of :func:`hook.apis.load_model`.
        files: Paths, or without ``out`` also arrays (see :func:`hook.geo.arrays.raster_file`).
        out: For classification a ``.csv`` file; for segmentation a folder for one GeoTIFF mask per
            image, or a ``.tif`` file for one image. None writes nothing.
        device: Device of a model that is not loaded yet.
        batch_size: Images per batch; a batch has images of one size.
        tta: Average over flips (``"flip"``) or flips and 90-degree rotations (``"d4"`` or True).
        num_tokens: Number of tokens; default: the model's.
        bidx: Names or 1-based numbers of the bands in the model's order; default: the bands of the
            model's dataset meta.
        overwrite: Replace existing files.
        progress: Show a progress bar on a terminal.

    Returns:
        One prediction per file, in order. Written masks are not kept in memory. An image without a
        valid pixel gets no class, with a warning.

    Raises:
        DataError: A file is missing, unreadable, or does not fit the model.
        ConfigError: The config or an option cannot be used.
        CheckpointError: See :func:`hook.apis.load_model`.
    """
    if isinstance(files, str | os.PathLike) or is_array(files) or not hasattr(files, "__len__"):
        raise bad_argument("files", files, "a list of images", "put the image into a list: [image]")
    if not len(files):
        raise DataError("no image was given", expected="one or more files", remedy="pass images")
    batch_size = check_int("batch_size", batch_size)
    if tta not in (None, False, True, *TTA_KINDS):
        raise bad_argument("tta", tta, f"one of {', '.join(TTA_KINDS)}, or None")
    if out is not None:
        out = check_path("out", out)
    named = [check_path("files", path, "paths or arrays") for path in files if not is_array(path)]
    missing = [str(path) for path in named if not path.is_file()]
    if missing and Path(missing[0]).is_dir():
        raise DataError(
            f"image {missing[0]} is a folder",
            expected="image files",
            found="a folder",
            remedy="list its files: FOLDER/*.tif, in Python sorted(Path(folder).glob('*.tif'))",
        )
    if missing:
        raise DataError(
            f"image {missing[0]} does not exist",
            expected="image files",
            found=f"{len(missing)} of {len(files)} missing",
            remedy="check the paths",
        )
    if bidx is not None:
        bidx = check_bands(bidx)
    model = load_model(model, device=device)
    require_classes(model)
    segments = is_segmentation(model)
    targets = _plan_output(files, out, segments, overwrite)
    if out is not None:
        check_output(
            targets.values() if segments else out, (*files, *model_files(model)), ConfigError
        )
    pipeline = inference_pipeline(model)
    options = {}
    if tta:
        options["tta"] = "d4" if tta is True else tta
    if num_tokens is not None:
        options["num_tokens"] = chosen_tokens(model, num_tokens)
    predictions: list[Prediction] = []
    check = ValueCheck(model)
    for batch in _batches(files, model, pipeline, batch_size, progress, bidx, check):
        for (path, _), result in zip(batch, _run(model, batch, options), strict=True):
            target = targets.get(str(path))
            predictions.append(_to_prediction(model, str(path), result, target))
    check.warn()
    if check.blank:
        more = f" ({len(check.blank)} of {len(files)} images)" if len(check.blank) > 1 else ""
        warnings.warn(f"{check.blank[0]}: no valid pixel, and so no class{more}", stacklevel=2)
    if out is not None and not segments:
        from hook.evaluation.accuracy import write_predictions  # imports MMEngine's metrics

        rows = [(p.file, None, p.scores) for p in predictions]
        write_predictions(out, model.dataset_meta["classes"], rows, overwrite)
    return predictions


def _plan_output(files, out, segments: bool, overwrite: bool) -> dict[str, Path]:
    """Return the output of each file; refuse outputs that exist or are inputs."""
    if out is None:
        return {}
    if any(map(is_array, files)):
        raise ConfigError(
            "arrays have no names for their results",
            expected="files, with out",
            found=f"{sum(map(is_array, files))} arrays",
            remedy="omit out, and write the returned predictions",
        )
    if not segments:
        if out.suffix.lower() != ".csv":
            raise ConfigError(
                f"{out}: classifications are written as CSV",
                expected="a name ending in .csv",
                remedy="choose a name ending in .csv for --out",
            )
        targets = {}
        outputs = [out]
    elif out.suffix.lower() in (".tif", ".tiff"):
        if len(files) > 1:
            raise ConfigError(
                f"{out} is one file, but {len(files)} images were given",
                expected="a folder",
                remedy="use a folder, or one image",
            )
        targets = {str(files[0]): out}
        outputs = [out]
    else:
        targets = {str(path): out / f"{Path(path).stem}.tif" for path in files}
        outputs = list(targets.values())
        if len(set(outputs)) < len(outputs):
            duplicate = next(path for path in outputs if outputs.count(path) > 1)
            raise ConfigError(
                f"two images would be written to {duplicate}",
                remedy="predict images of the same name in separate runs",
            )
    if not overwrite and (existing := replaced_by(outputs, ConfigError)):
        raise ConfigError(
            f"{existing[0]} exists already",
            remedy="choose a different output or overwrite (--overwrite)",
        )
    return targets


def _batches(
    files, model, pipeline, batch_size: int, progress: bool, bidx, check: ValueCheck
) -> Iterator[list]:
    """Yield batches of (path, packed sample) with images of one size."""
    batch: list[tuple[str, dict]] = []
    for number, path in enumerate(progress_bar(files, unit="image", show=progress)):
        sample = read_sample(path, model, bidx, "bidx (--bidx)")
        path = f"array {number}" if is_array(path) else path
        check.add(path, value_range(sample["img"].transpose(2, 0, 1), sample["valid"] > 0))
        sample = pipeline(sample)
        if batch and (
            len(batch) == batch_size or batch[0][1]["inputs"].shape != sample["inputs"].shape
        ):
            yield batch
            batch = []
        batch.append((str(path), sample))
    if batch:
        yield batch


@torch.inference_mode()
def _run(model: nn.Module, batch: list[tuple[str, dict]], options: dict[str, Any]) -> list:
    if model.training:
        raise RuntimeError(
            "the model is in training mode; load_model returns it in evaluation mode"
        )
    data = {
        "inputs": [sample["inputs"] for _, sample in batch],
        "data_samples": [sample["data_samples"] for _, sample in batch],
    }
    try:
        return model.predict(**model.data_preprocessor(data, False), **options)
    except ValueError as error:  # raised by a tokenizer of fixed size
        raise DataError(
            f"image {batch[0][0]} does not fit the model",
            found=error,
            remedy="resize in the config's test pipeline, or map the image with 'hook map'",
        ) from None


def _to_prediction(model, path: str, result, target: Path | None) -> Prediction:
    classes = model.dataset_meta["classes"]
    if not is_segmentation(model):
        scores = result.pred_score.float().cpu().numpy()
        label = classes[int(result.pred_label)] if "pred_label" in result else None
        if label is not None and not np.isfinite(scores).all():
            warn_no_prediction(path)
            label = None
        return Prediction(path, label, scores, None, None, result.metainfo.get("geo"))
    dtype, nodata = map_dtype(len(classes))
    mask = result.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(dtype)
    valid = _valid_mask(result, mask.shape)
    if valid is not None:
        mask[~valid] = nodata
    unknown = without_class(result.to_dict())
    if unknown is not None and (unknown := unknown.numpy() & (mask != nodata)).any():
        mask[unknown] = nodata
        warn_no_prediction(path, unknown)
    if target is None:
        return Prediction(path, None, None, mask, None, result.metainfo.get("geo"))
    from hook.evaluation.prediction_writer import class_map_file

    geo = result.metainfo.get("geo") or {}
    transform = rasterio.Affine(*geo.get("transform", rasterio.Affine.identity()[:6])[:6])
    sink = class_map_file(
        target, geo.get("crs"), transform, *mask.shape, classes, model.dataset_meta.get("palette")
    )
    with sink as raster:
        raster.write(mask, 1)
    return Prediction(path, None, None, None, str(target), geo or None)


def _valid_mask(result, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the validity of the image, at the size of the prediction."""
    if "valid_mask" not in result:
        return None
    valid = result.valid_mask.data[0].cpu().numpy() > 0
    if valid.shape != shape:  # the pipeline resized the image
        rows = np.arange(shape[0]) * valid.shape[0] // shape[0]
        cols = np.arange(shape[1]) * valid.shape[1] // shape[1]
        valid = valid[rows[:, None], cols]
    return valid
