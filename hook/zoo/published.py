"""Published models: weights and model description in one safetensors file.

The description is JSON in the file's metadata. It is restricted to a fixed list of types and holds
no file, URL or module, so that reading and building the model runs no code but HOOK's own layers.

Format of the weights: https://github.com/huggingface/safetensors
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin

from hook.arguments import check_path
from hook.errors import CheckpointError, ConfigError
from hook.geo.staging import atomic_write

SUFFIX = ".safetensors"
KEY = "hook_model"
FORMAT = 1

TASKS = ("classification", "segmentation", "reconstruction", "embedding", "generation")
_WITHOUT_CLASSES = ("reconstruction", "embedding", "generation")
# Types allowed in a published model; MMEngine's registries would import any dotted name.
MODEL_TYPES = frozenset(
    "EncoderDecoder FCNHead CrossEntropyLoss hook.CrossEntropyLoss hook.DiceLoss hook.FocalLoss "
    "hook.TokenSegmentor hook.TokenClassifier hook.TokenPretrainer hook.LinearClsHead "
    "hook.ClsDataPreProcessor hook.SegDataPreProcessor "
    "hook.TokenViT hook.SeedBackbone hook.TokenPyramid hook.SeedPyramid hook.SegFormerStyleHead "
    "hook.RegionContextHead hook.HookTokenizer hook.PatchEmbedTokenizer BN SyncBN LN GN ReLU GELU "
    "hook.TileAutoencoder hook.CodecDataPreProcessor hook.VQGANEncoder hook.VQGANDecoder "
    "hook.MAGVIT2Encoder hook.MAGVIT2Decoder hook.GaussianQuantizer hook.VectorQuantizer "
    "hook.IndexBackpropQuantizer hook.LookupFreeQuantizer hook.FiniteScalarQuantizer "
    "hook.ResidualQuantizer "
    "hook.TileGenerator hook.CodeTransformer hook.FactorizedTransformer hook.DepthTransformer "
    "hook.FlatTransformer hook.LightningDiT".split()
)
PIPELINE_TYPES = frozenset(
    "hook.PackClsSample hook.PackSegSample hook.ScaleBands hook.Albumentations "
    "Resize CenterCrop PadIfNeeded".split()
)
# Settings that make a model read a file or URL when it is built.
_REFUSED_KEYS = frozenset(
    "init_cfg pretrained checkpoint encoder_weights custom_imports _base_ _scope_ file filename "
    "path url".split()
)
META_KEYS = frozenset(
    "classes palette bands scale offset mean std nodata resolution ignore_index".split()
)
_MAX_DEPTH, _MAX_VALUE = 12, 65_536


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Origin and quality of a listed model.

    Attributes:
        name: Its name.
        task: ``'classification'``, ``'segmentation'``, ``'reconstruction'`` (an autoencoder),
            ``'embedding'`` (a pretrained backbone) or ``'generation'``.
        config: Name of its training config.
        metrics: Metrics by name, in percent if the config's evaluator uses percent.
        measured_on: Data of the metrics.
        licence: Licence of the weights.
        data: Training data.
        attribution: Attribution that users must state.
    """

    name: str
    task: str
    config: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    measured_on: str = ""
    licence: str = ""
    data: str = ""
    attribution: str = ""


@dataclass(frozen=True, kw_only=True)
class PublishedModel(Provenance):
    """Description of a published model, stored in its file.

    Attributes:
        model: Section ``model`` of a config.
        dataset_meta: Classes, palette, bands, units, nodata and ground resolution.
        test_pipeline: Test transforms, without loading.
        default_scope: Scope of type names without scope.
    """

    model: dict[str, Any]
    dataset_meta: dict[str, Any]
    test_pipeline: list[dict[str, Any]]
    default_scope: str = "hook"

    def to_json(self) -> str:
        """Return the JSON text stored in the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)


def write_published(
    path: str | os.PathLike, card: PublishedModel, weights: Mapping, half: bool = False
) -> Path:
    """Write a published model atomically.

    Args:
        path: ``.safetensors`` file.
        card: Description of the model.
        weights: The model's state dict.
        half: Store weights in half precision, except running statistics of normalisations, which
            may exceed its range.

    Returns:
        The file.

    Raises:
        ConfigError: The card has entries not allowed in a published model, or the file cannot be
            written.
        CheckpointError: A weight exceeds the range of half precision.
    """
    import torch
    from safetensors.torch import save_file

    path = Path(path)
    card = _parse(card.to_json(), path, ConfigError)
    stored = {}
    for key, value in weights.items():
        value = value.detach().cpu()
        if half and value.is_floating_point() and ".running_" not in key:
            half_value = value.to(torch.float16)
            if not half_value.isfinite().all():
                raise CheckpointError(
                    f"weight {key} does not fit into half precision",
                    expected="numbers up to 65504",
                    found=f"{float(value.abs().max()):g}",
                    remedy="publish without --half",
                )
            value = half_value
        stored[key] = value.contiguous().clone()
    if not path.parent.is_dir():
        raise ConfigError(
            f"{path} cannot be written",
            expected=f"an existing folder {path.parent}",
            found="no such folder",
            remedy="create the folder",
        )
    with atomic_write(path) as part:
        save_file(stored, str(part), metadata={KEY: card.to_json()})
    return path


def read_published(path: str | os.PathLike) -> PublishedModel:
    """Read the description of a published model; :func:`load_checkpoint` reads the weights.

    Raises:
        CheckpointError: The file is missing or damaged, is not a published model of HOOK, or has
            entries not allowed in one. Nothing of it has been executed.
        ConfigError: ``path`` is not a path.
    """
    from safetensors import SafetensorError, safe_open

    path = check_path("path", path).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"model {path} does not exist",
            expected=f"a {SUFFIX} file",
            found="a folder" if path.is_dir() else "nothing",
            remedy="check the path; `hook models list` shows the names of models",
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"model {path} cannot be read",
            expected=f"a complete {SUFFIX} file",
            found=str(error),
            remedy="copy or download it again",
        ) from None
    if text is None:
        raise CheckpointError(
            f"{path} holds weights without a description of the model",
            expected="a model published by tools/misc/publish_model.py",
            found=f"no metadata {KEY!r}",
            remedy="pass the config too: CONFIG and CHECKPOINT",
        )
    return _parse(text, path, CheckpointError)


def _parse(text: str, path: Path, error: type) -> PublishedModel:
    """Parse the description and refuse entries not allowed in a published model."""

    def refuse(what: str, expected: object, found: object) -> Exception:
        return error(
            f"model {path} is refused: {what}",
            expected=expected,
            found=found,
            remedy="use models only from a source you trust; nothing of this one has been run",
        )

    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise refuse("its description is not JSON", "JSON", problem) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise refuse("its format is unknown", f"format {FORMAT}", found)
    entries = {key: value for key, value in content.items() if key != "format"}
    types = {field.name: get_origin(field.type) or field.type for field in fields(PublishedModel)}
    for key in sorted({*types, *entries}):
        if key not in types:
            raise refuse(f"unknown entry {key!r}", f"only {', '.join(types)}", key)
        if not isinstance(entries.get(key), types[key]):
            raise refuse(f"entry {key!r}", types[key].__name__, type(entries.get(key)).__name__)
    if entries["task"] not in TASKS or entries["default_scope"] not in ("hook", "mmseg"):
        found = f"{entries['task']}, {entries['default_scope']}"
        raise refuse("task or default_scope", f"one of {TASKS}; 'hook' or 'mmseg'", found)
    if "type" not in entries["model"]:
        raise refuse("the model has no type", "model = dict(type=..., ...)", list(entries["model"]))
    _check(entries["model"], MODEL_TYPES, "model", refuse)
    _check(entries["test_pipeline"], PIPELINE_TYPES, "test_pipeline", refuse)
    unknown = set(entries["dataset_meta"]) - META_KEYS
    if unknown:
        raise refuse("dataset_meta", f"only {', '.join(sorted(META_KEYS))}", sorted(unknown))
    _check(entries["dataset_meta"], frozenset(), "dataset_meta", refuse)
    _check(entries["metrics"], frozenset(), "metrics", refuse)
    classes = entries["dataset_meta"].get("classes")
    if entries["task"] in _WITHOUT_CLASSES and classes is None:
        return PublishedModel(**entries)
    if not isinstance(classes, list) or not classes or any(type(c) is not str for c in classes):
        raise refuse("dataset_meta names no classes", "a list of names", classes)
    return PublishedModel(**entries)


def _check(value: Any, types: frozenset[str], where: str, refuse, depth: int = 0) -> None:
    """Refuse unknown types, settings that read files, and huge numbers, recursively."""
    if depth > _MAX_DEPTH:
        raise refuse(f"{where} is nested too deeply", f"at most {_MAX_DEPTH} levels", "more")
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "type":
                if not isinstance(part, str) or part not in types:
                    raise refuse(f"{where}.type", f"one of {', '.join(sorted(types))}", part)
                continue
            if key in _REFUSED_KEYS or key.startswith("_"):
                raise refuse(f"{where}.{key} is not a setting of a published model", "none", part)
            _check(part, types, f"{where}.{key}", refuse, depth + 1)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check(part, types, f"{where}[{index}]", refuse, depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        is_size = where.startswith(("model", "test_pipeline")) and isinstance(value, int)
        if not math.isfinite(value) or (is_size and abs(value) > _MAX_VALUE):
            raise refuse(f"{where} is out of range", f"at most {_MAX_VALUE}", value)
    elif isinstance(value, str):
        if "://" in value or "\0" in value:
            raise refuse(f"{where} is a URL", "a plain setting", value)
