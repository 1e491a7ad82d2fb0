"""Export a model to ONNX, for QGIS and other programs without HOOK and PyTorch.

The graph maps raster values to class probabilities; its metadata are those of the QGIS plugin
Deepness.
"""

import importlib
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.engine.models import default_window, get_num_bands, is_segmentation
from hook.errors import ConfigError
from hook.geo.bands import to_model_units
from hook.geo.raster import parse_nodata
from hook.geo.staging import StagedFiles, exists
from hook.inference.models import (
    Model,
    chosen_tokens,
    load_model,
    model_files,
    require_classes,
)
from hook.inference.windows import WindowPredictor
from hook.tokenizers import ImageFacts

TOLERANCE = 1e-4
"""Largest allowed difference of probabilities between PyTorch and ONNX Runtime."""

DEFAULT_OPSET = 18
"""The oldest opset of PyTorch's exporter, supported by ONNX Runtime from 1.14."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Size limit of protobuf.
_MAX_BYTES = 2**31 - 2**24
# Overlap of tiles in percent, as the default of `hook map`.
_OVERLAP = 25


class ExportReport(NamedTuple):
    """Report of :func:`export_onnx`."""

    output: Path
    """The file."""
    window: int
    """Side of the input images in pixels."""
    num_bands: int
    """Number of input bands."""
    difference: float
    """Largest difference of probabilities from PyTorch's in the check."""
    size: int
    """Size of the file in bytes."""


def export_onnx(
    model: Model,
    output: str | os.PathLike,
    *,
    window: int | None = None,
    num_tokens: int | None = None,
    opset: int = DEFAULT_OPSET,
    overwrite: bool = False,
) -> ExportReport:
    """Export a segmentation or classification to ONNX and compare the file with PyTorch.

    The graph has one input, ``image`` (B, C, window, window) float32: raster values in the model's
    band order, divided by 255 as by the QGIS plugin Deepness, whatever their type. Scale, offset,
    normalisation and model are in the graph; NaN and the ``nodata`` of the dataset meta count as
    no data. Its output, ``probabilities`` float32, is (B, K, window, window) for a segmentation
    and (B, K) for a classification, and sums to one over the classes. B is dynamic.

    The test pipeline, such as resizing, is not in the graph. With global attention of seeds
    (preset ``"reference"``) the memory of the graph grows with the fourth power of ``window``.

    Args:
        model: A model loaded on the CPU, or argument of :func:`hook.apis.load_model`.
        output: The file to write, ``.onnx``.
        window: Side of the images in pixels; default as in ``hook map``: the model's input size,
            or 512 if it takes any.
        num_tokens: Number of tokens; default: the model's.
        opset: Version of ONNX's operators.
        overwrite: Replace an existing file.

    Raises:
        ConfigError: The optional packages are missing, an option cannot be used, the model cannot
            be exported, or the file and PyTorch differ by more than :data:`TOLERANCE`. Nothing is
            written then.
        CheckpointError: See :func:`hook.apis.load_model`.
        SceneError: The file cannot be written.

    Reference:
        Metadata: "Adding metadata to ONNX model" and "Model classes and requirements" in the
        documentation of Deepness, https://qgis-plugin-deepness.readthedocs.io
    """
    _check_packages()
    output = Path(output)
    _check_output(output, overwrite)
    model = load_model(model)
    require_classes(model)
    _check_model(model, num_tokens)
    window = window or _default_window(model)
    _check_window(model, window)
    num_bands = _num_bands(model)
    num_tokens = chosen_tokens(model, num_tokens)
    with torch.no_grad():
        graph = PixelsToProbabilities(model, num_bands, window, num_tokens).eval()
        images, valid = _test_images(graph)
        # One image at a time, as in the check: global attention can take gigabytes per image.
        predict = WindowPredictor(model, num_tokens=num_tokens)
        each = (slice(i, i + 1) for i in range(len(images)))
        expected = np.concatenate([predict(images[one], valid[one]) for one in each])
        proto = _to_onnx(graph, num_bands, window, opset)
        _set_metadata(proto, _metadata(graph))
    with StagedFiles(overwrite, inputs=model_files(model)) as staged:
        path = staged.add(output)
        path.write_bytes(proto.SerializeToString(deterministic=True))
        difference = _compare(path, output, _as_given(images), expected)
        staged.commit()
    return ExportReport(output, window, num_bands, difference, output.stat().st_size)


class PixelsToProbabilities(nn.Module):
    """A model with the scaling of its readers and its preprocessor, as one module.

    Args:
        model: From :func:`hook.apis.load_model`.
        num_bands: Number of bands C.
        window: Side of the images in pixels.
        num_tokens: Number of tokens; default: the model's.
    """

    def __init__(
        self, model: nn.Module, num_bands: int, window: int, num_tokens: int | None = None
    ) -> None:
        super().__init__()
        self.model, self.num_tokens = model, num_tokens
        self.window = window
        self.segments = is_segmentation(model)
        meta, preprocessor = model.dataset_meta, model.data_preprocessor
        # Raises unless there is one number per band; so does the preprocessor.
        to_model_units(np.zeros((num_bands, 1, 1), np.float32), None, meta)
        blank = [torch.zeros(num_bands, window, window)]
        height, width = preprocessor({"inputs": blank}, False)["inputs"][0].shape[-2:]
        self.padding = (0, width - window, 0, height - window)
        self.pad_value = getattr(preprocessor, "pad_val", 0)
        self.nodata = parse_nodata(meta.get("nodata"))
        self.mark_invalid = getattr(preprocessor, "mark_invalid", False)
        # mmseg's preprocessors swap three bands if the config asks for it.
        self.swap_bands = num_bands == 3 and getattr(preprocessor, "_channel_conversion", False)
        for name, key, default in (
            ("scale", "scale", 1.0),
            ("offset", "offset", 0.0),
            ("fill", "mean", 0.0),
        ):
            value = default if meta.get(key) is None else meta[key]
            value = torch.tensor(np.broadcast_to(value, (num_bands,)), dtype=torch.float64)
            self.register_buffer(name, value.view(-1, 1, 1))
        mean, std = torch.zeros(num_bands, 1, 1), torch.ones(num_bands, 1, 1)
        if getattr(preprocessor, "_enable_normalize", hasattr(preprocessor, "mean")):
            mean, std = mean + preprocessor.mean, std * preprocessor.std
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, image: Tensor) -> Tensor:
        """Map images to class probabilities.

        Args:
            image: (B, C, window, window) native values divided by 255.

        Returns:
            (B, K, window, window) for a segmentation, (B, K) for a classification.
        """
        invalid = ~(image.abs() < torch.finfo(torch.float32).max)  # also of NaN
        if self.nodata is not None and not math.isnan(self.nodata):
            # Compare within the rounding of the division in float32.
            nodata = self.nodata / 255
            invalid = invalid | ((image - nodata).abs() <= abs(nodata) * 4e-7)
        invalid = invalid.any(dim=1, keepdim=True)
        x = image * (self.scale * 255).float() + self.offset.float()
        x = torch.where(invalid, self.fill.float(), x)
        if self.swap_bands:
            x = x.flip(1)
        x = (x - self.mean) / self.std
        if any(self.padding):
            x = F.pad(x, self.padding, value=self.pad_value)
        size = tuple(x.shape[-2:])
        meta = {"ori_shape": size, "img_shape": size, "pad_shape": size}
        if hasattr(self.model, "infer"):
            valid = F.pad(~invalid[:, 0], self.padding) if self.mark_invalid else None
            logits, _ = self.model.infer(x, ImageFacts(valid), self.num_tokens, [meta])
        elif self.segments:
            logits = self.model.encode_decode(x, [meta])
        else:
            logits = self.model(x)
        logits = logits.float()
        if not self.segments:
            return logits.softmax(dim=1)
        logits = logits[..., : self.window, : self.window]
        if logits.shape[1] > 1:
            return logits.softmax(dim=1)
        positive = logits.sigmoid()  # one output for two classes
        return torch.cat([1 - positive, positive], dim=1)


# ------------------------------------------------------------------------------------ checks
def _check_packages() -> None:
    """Check that the packages of the extra ``export`` are installed."""
    missing = []
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise ConfigError(
            "packages for the export are missing",
            expected=", ".join(_PACKAGES),
            found=f"no {', no '.join(missing)}",
            remedy="pip install 'hook-rs[export]'",
        )


def _check_output(path: Path, overwrite: bool) -> None:
    """Check that the file can be written, before a model is loaded."""
    if path.suffix.lower() != ".onnx":
        raise ConfigError(
            f"{path}: models are exported as ONNX",
            expected="a name ending in .onnx",
            remedy="choose an output name ending in .onnx",
        )
    if exists(path, ConfigError) and (path.is_dir() or not overwrite):
        raise ConfigError(
            f"{path} {'is a folder' if path.is_dir() else 'exists already'}",
            remedy="choose a different name"
            + ("" if path.is_dir() else " or overwrite (--overwrite)"),
        )
    if not path.parent.is_dir():
        raise ConfigError(
            f"{path} cannot be written",
            expected=f"an existing folder {path.parent}",
            remedy="create the folder or choose a different one",
        )


def _check_model(model: nn.Module, num_tokens: int | None) -> None:
    """Check that a static graph can express the model."""
    if model.training:
        raise ConfigError(
            "the model is in training mode", remedy="call model.eval(), as load_model does"
        )
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise ConfigError(
            "the model is not on the CPU",
            found=device,
            remedy="load it with device='cpu', or call model.cpu()",
        )
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _MAX_BYTES:
        raise ConfigError(
            f"{type(model).__name__} is too large for one ONNX file",
            expected="weights of less than 2 GB",
            found=f"{size / 1e9:.1f} GB",
            remedy="export a smaller model, such as the preset 'fast' with a narrower backbone",
        )
    if getattr(model.backbone, "has_regions", False):
        raise ConfigError(
            "the merges of the preset 'objects' differ between images, which ONNX cannot express",
            expected="a tokenizer whose steps are the same for all images",
            found=f"{type(model.backbone.tokenizer).__name__} of preset 'objects'",
            remedy="export a model with preset 'fast' or 'reference', or map with 'hook map'",
        )
    if getattr(model.backbone, "explained", None) is not None and num_tokens is None:
        raise ConfigError(
            "the number of tokens differs between images, which ONNX cannot express",
            expected="one number of tokens for all images",
            found=f"model.backbone.explained={model.backbone.explained}",
            remedy="choose the number with --num-tokens",
        )


def _default_window(model: nn.Module) -> int:
    """Return the crop of a sliding inference, else the window of ``hook map``."""
    crop = _crop(model)
    if crop is not None and crop[0] == crop[1]:
        return crop[0]
    return default_window(model)


def _crop(model: nn.Module) -> tuple[int, int] | None:
    """Return the crop of a segmentation with sliding inference, else None."""
    options = getattr(model, "test_cfg", None) or {}
    if is_segmentation(model) and options.get("mode") == "slide":
        return tuple(options["crop_size"])
    return None


def _check_window(model: nn.Module, window: int) -> None:
    """Refuse a window larger than the crop of a sliding inference."""
    crop = _crop(model)
    if crop is not None and window > min(crop):
        raise ConfigError(
            f"the model slides over windows of {window} x {window} pixels",
            expected=f"windows of at most {min(crop)} pixels, model.test_cfg.crop_size",
            found=window,
            remedy="use a smaller --window, and slide in the program that runs the file",
        )


# ------------------------------------------------------------------------------------ the model
def _num_bands(model: nn.Module) -> int:
    """Return the number of input bands of a model."""
    count = get_num_bands(model)
    if count is None and model.dataset_meta.get("bands"):
        count = len(model.dataset_meta["bands"])
    if count is None:
        layers = (m for m in model.backbone.modules() if isinstance(m, nn.Conv2d))
        count = next((layer.in_channels for layer in layers), None)
    if count is None:
        raise ConfigError(
            f"{type(model.backbone).__name__}: unknown number of input bands",
            expected="metainfo['bands'] in the config",
            remedy="name the bands in metainfo['bands'], in the model's order",
        )
    return count


# ------------------------------------------------------------------------------------ the file
def _to_onnx(graph: nn.Module, num_bands: int, window: int, opset: int) -> Any:
    """Convert the graph to an ``onnx.ModelProto``, with PyTorch's exporter by ``torch.export``.

    The tracing exporter takes a tenth of the time, but is deprecated, and silently fixes the batch
    size if the model's code uses it.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    # Not 1: torch.export treats it as a constant, and the check, which uses 1, would not find a
    # fixed batch size.
    example = torch.zeros(3, num_bands, window, window)
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["image"],
                output_names=["probabilities"],
                opset_version=opset,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
            )
    except Exception as error:  # any error of the model's code
        raise ConfigError(
            f"{_name(graph.model)} cannot be exported to ONNX",
            found=_cause(error),
            remedy="omit --opset, or replace the operation in the model",
        ) from error
    # Remove stack traces, which contain local paths.
    ClearMetadataAndDocStringPass()(program.model)
    proto = program.model_proto
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    if versions[""] != opset:  # the exporter falls back silently
        raise ConfigError(
            f"opset {opset} cannot be written",
            expected=f"{DEFAULT_OPSET} or slightly newer",
            found=f"PyTorch {torch.__version__} writes {versions['']}",
            remedy="omit --opset",
        )
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ConfigError(
            f"{_name(graph.model)} cannot be exported with a dynamic batch size",
            found="code that fixes the number of images, such as len(images)",
            remedy="use images.shape[0] in the model",
        )
    return proto


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress log messages and warnings of the exporter."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name(model: nn.Module) -> str:
    """Return the name of a model in messages."""
    return f"{type(model).__name__} with {type(model.backbone).__name__}"


def _cause(error: BaseException) -> str:
    """Return the first line of the root cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _metadata(graph: PixelsToProbabilities) -> dict[str, Any]:
    """Return the metadata: entries of Deepness, then a description of the model."""
    meta, window = graph.model.dataset_meta, graph.window
    num_bands = len(graph.mean)
    found: dict[str, Any] = {
        # Deepness has no type for classifications, and refuses this one.
        "model_type": "Segmentor" if graph.segments else "Classifier",
        "class_names": {str(i): str(name) for i, name in enumerate(meta["classes"])},
        # One name is documented, the other is read.
        "tile_size": window,
        "tiles_size": window,
        "tiles_overlap": _OVERLAP,
        # Disable Deepness's threshold, below which it writes class 0, and its smoothing.
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
        # Disable Deepness's normalisation, which is in the graph; its default has three bands.
        "standardization_mean": [0.0] * num_bands,
        "standardization_std": [1.0] * num_bands,
    }
    if isinstance(meta.get("resolution"), (int, float)):
        found["resolution"] = round(100.0 * meta["resolution"], 6)  # metres to centimetres
    if not graph.segments:
        for name in ("tiles_overlap", "seg_thresh", "seg_small_segment"):
            del found[name]
    tokenizer = getattr(graph.model.backbone, "tokenizer", None)
    found |= {
        "input": "native values / 255",
        "bands": [b if isinstance(b, int) else str(b) for b in meta.get("bands") or ()] or None,
        "scale": graph.scale.flatten().tolist(),
        "offset": graph.offset.flatten().tolist(),
        # Digits of float32.
        "mean": [float(f"{value:.7g}") for value in graph.mean.flatten().tolist()],
        "std": [float(f"{value:.7g}") for value in graph.std.flatten().tolist()],
        "nodata": None if graph.nodata is None else str(graph.nodata),
        "num_tokens": (
            graph.num_tokens or tokenizer.num_tokens if hasattr(tokenizer, "max_tokens") else None
        ),
    }
    return {key: value for key, value in found.items() if value is not None}


def _set_metadata(proto: Any, metadata: Mapping[str, Any]) -> None:
    """Write metadata into a model, each value as JSON, as Deepness reads it."""
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))


# ------------------------------------------------------------------------------------ the check
def _test_images(graph: PixelsToProbabilities) -> tuple[np.ndarray, np.ndarray]:
    """Return two seeded images in native values: noise, and blocks with nodata pixels.

    Returns:
        (2, C, window, window) float32, NaN or nodata where not valid; (2, window, window) bool.
    """
    num_bands, window = len(graph.mean), graph.window
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((num_bands, window, window))
    side = -(-window // 8)
    blocks = rng.standard_normal((num_bands, 8, 8)).repeat(side, axis=1).repeat(side, axis=2)
    images = np.stack([noise, blocks[:, :window, :window] + 0.1 * noise])
    units = images * graph.std.numpy() + graph.mean.numpy()
    images = ((units - graph.offset.numpy()) / graph.scale.numpy()).astype(np.float32)
    valid = np.ones((2, window, window), dtype=bool)
    corner = window // 4
    images[1, 0, :corner, :corner] = np.nan  # one band is enough
    valid[1, :corner, :corner] = False
    if graph.nodata is not None:
        images[1, -1, window - corner :, window - corner :] = graph.nodata
        valid[1, window - corner :, window - corner :] = False
    return images, valid


def _as_given(images: np.ndarray) -> np.ndarray:
    """Scale native values as Deepness does."""
    return (images / np.float32(255)).astype(np.float32)


def _compare(path: Path, name: Path, images: np.ndarray, expected: np.ndarray) -> float:
    """Run a file on the CPU, and return the largest difference from PyTorch.

    Args:
        path: The file.
        name: Its name in messages.
        images: (2, C, H, W) float32.
        expected: PyTorch's probabilities.

    Raises:
        ConfigError: ONNX Runtime cannot run it, or the difference exceeds :data:`TOLERANCE`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        found = [session.run(None, {"image": image[None]})[0] for image in images]
    except Exception as error:  # its exceptions have no common base class
        raise ConfigError(
            f"{name} does not run",
            found=f"ONNX Runtime {onnxruntime.__version__}: "
            + str(error).splitlines()[0].replace(str(path), name.name),
            remedy="omit --opset, or install a newer onnxruntime",
        ) from None
    if any(one.shape != expected[:1].shape for one in found):
        raise ConfigError(
            f"{name} differs from PyTorch in shape",
            expected=f"probabilities of shape {expected[:1].shape}",
            found=found[0].shape,
            remedy="use a different --opset or model: a layer was lost",
        )
    difference = float(abs(np.concatenate(found) - expected).max())
    if not difference <= TOLERANCE:  # NaN must not pass
        raise ConfigError(
            f"{name} differs from PyTorch in its probabilities",
            expected=f"a difference of at most {TOLERANCE:g}",
            found=f"{difference:.2g}",
            remedy="use a different --opset, or the model's input size as --window",
        )
    return difference
