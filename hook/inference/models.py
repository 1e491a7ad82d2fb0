"""Load models from a config and checkpoint, a published file, or by name."""

import logging
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from hook.arguments import bad_argument, check_path, is_int
from hook.checkpoint import (
    check_state_dict,
    get_state_dict,
    load_checkpoint,
    load_weights,
    warn_input_changes,
)
from hook.engine.configs import config_errors, find_config, load_config, setup_environment
from hook.engine.devices import to_device
from hook.engine.models import build_model, get_num_classes
from hook.errors import ConfigError
from hook.zoo import find_model, read_published

_EXPECTED = (
    "the name of a model, its .safetensors file, a pair (config, checkpoint), or a model from "
    "load_model"
)
_REMEDY = "`hook models list` shows the names of models"

Model = (
    nn.Module | str | os.PathLike | Config | tuple[str | os.PathLike | Config, str | os.PathLike]
)
"""Argument of :func:`load_model`."""


def load_model(
    model: Model, checkpoint: str | os.PathLike | None = None, *, device: str = "cpu"
) -> nn.Module:
    """Load a model.

    Args:
        model: A name from ``hook models list``; a published ``.safetensors`` file; or a pair
            ``(config, checkpoint)``, with a config file, the name of a config of HOOK, or a loaded
            config. All weights must fit, and no code of the weights is executed. A loaded model
            is returned unchanged.
        checkpoint: Deprecated: pass the pair as ``model``.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, for a model that is not loaded yet.

    Returns:
        The model in evaluation mode, with ``cfg``, ``dataset_meta`` (``classes``, ``palette``,
        ``bands``, ...: the checkpoint's, else the config's) and ``weights_file``.

    Raises:
        ConfigError: The config or the device cannot be used, or the name is unknown.
        CheckpointError: The checkpoint cannot be read, is not safe, or does not fit the model.

    Example:
        >>> model = load_model("hook-fast-tiny_eurosat")
        >>> model = load_model(("config.py", "checkpoint.pth"), device="cuda")
    """
    model = join_checkpoint(model, checkpoint)
    if isinstance(model, nn.Module):
        if not any(hasattr(model, part) for part in ("backbone", "quantizer", "codec")):
            raise bad_argument(
                "model", model, "a model of HOOK or mmseg, with a backbone", "load it"
            )
        return model
    setup_environment()
    loaded = _load_pair(*model) if _is_pair(model) else _load_published(model)
    return to_device(loaded, device).eval()


def model_files(model: nn.Module) -> list[str | os.PathLike]:
    """Return the files of a model from :func:`load_model`: config and checkpoint, if known."""
    config = getattr(getattr(model, "cfg", None), "filename", None)
    return [file for file in (config, getattr(model, "weights_file", None)) if file is not None]


def name_of(model: nn.Module) -> str:
    """Return the name of a published model, or that of its config."""
    card, config = getattr(model, "card", None), getattr(model, "cfg", None)
    return card.name if card else Path(getattr(config, "filename", None) or "model").stem


def require_classes(model: nn.Module) -> None:
    """Raise ConfigError for a model without classes: an autoencoder, or learned without labels."""
    if not get_num_classes(model):
        if not hasattr(model, "backbone"):
            raise ConfigError(
                f"{type(model).__name__} has no classes",
                expected="a classification or a segmentation",
                found=type(model).__name__,
                remedy="choose a different model; 'hook encode' takes autoencoders",
            )
        raise ConfigError(
            "the model has no classes: it learned without labels",
            expected="a classification or a segmentation",
            found=type(model).__name__,
            remedy="train one that starts from it, with train(..., pretrained=CHECKPOINT) or "
            "load_from; regions and search work without classes",
        )


def backbone_with_tokens(model: nn.Module) -> nn.Module:
    """Return the backbone of a model, which must have tokens.

    Raises:
        ConfigError: It has none.
    """
    backbone = getattr(model, "backbone", None)
    if not hasattr(backbone, "forward_with_tokens"):
        raise ConfigError(
            f"{type(model if backbone is None else backbone).__name__} has no tokens",
            expected="a model with hook.TokenViT as its backbone",
            remedy="choose a different model; 'hook map' and 'hook predict' take any with classes",
        )
    return backbone


def join_checkpoint(model: Model, checkpoint: str | os.PathLike | None) -> Model:
    """Return the model argument of a call, joined with a deprecated ``checkpoint``."""
    if checkpoint is None:
        return model
    warnings.warn(
        "pass the model as one argument, the pair (config, checkpoint), instead of a config and a "
        "checkpoint",
        DeprecationWarning,
        stacklevel=3,
    )
    return model, checkpoint


def _is_pair(model: object) -> bool:
    return isinstance(model, tuple | list) and len(model) == 2


def _load_pair(config: str | os.PathLike | Config, checkpoint: str | os.PathLike) -> nn.Module:
    """Load a model from a config and a checkpoint."""
    if not isinstance(config, Config):
        check_path("model", config, _EXPECTED, _REMEDY)
        # A path, or the name of a config of HOOK.
        stem = Path(config).stem
        is_name = not Path(config).exists() and Path(config).name == stem == str(config)
        config = load_config(find_config(config) if is_name else config)
    check_path("checkpoint", checkpoint)
    model = build_model(config)
    loaded = load_weights(model, checkpoint)
    with config_errors("test_dataloader.dataset.metainfo"):
        data_meta = find_key(config.get("test_dataloader"), "metainfo") or {}
        warn_input_changes(model, loaded, data_meta, checkpoint)
        model.dataset_meta = _dataset_meta(config, loaded.get("meta") or {}, model)
    model.cfg = config
    model.weights_file = Path(checkpoint)
    return model


def _load_published(name: str | os.PathLike | Config) -> nn.Module:
    """Load a published model."""
    if not isinstance(name, Config):
        check_path("model", name, _EXPECTED, _REMEDY)
    if isinstance(name, Config) or Path(name).suffix in (".py", ".json", ".yml", ".yaml"):
        raise ConfigError(
            "a config was given without a checkpoint",
            expected=_EXPECTED,
            found=getattr(name, "filename", name),
            remedy="pass the checkpoint too, in Python as a pair: (config, checkpoint)",
        )
    if Path(name).suffix in (".pth", ".pt", ".ckpt"):
        raise ConfigError(
            f"checkpoint {name} was given without its config",
            expected=_EXPECTED,
            found="a checkpoint alone, without a description of the model",
            remedy="pass the config and the checkpoint, in Python as a pair: (config, checkpoint)",
        )
    path = find_model(name)
    card = read_published(path)
    dataset = dict(metainfo=card.dataset_meta, pipeline=card.test_pipeline)
    cfg = Config(
        dict(
            default_scope=card.default_scope,
            model=card.model,
            test_dataloader=dict(dataset=dataset),
        ),
        filename=f"{card.name}.json",  # name of the config in outputs
        cfg_text=card.to_json(),
        format_python_code=False,
    )
    weights = get_state_dict(load_checkpoint(path))
    with torch.device("meta"):  # before memory is allocated
        check_state_dict(build_model(cfg), weights, path)
    model = build_model(cfg)
    model.load_state_dict(weights, strict=False)  # only BatchNorm counters may be absent
    model.cfg, model.card, model.weights_file = cfg, card, path
    model.dataset_meta = _dataset_meta(cfg, dict(dataset_meta=card.dataset_meta), model)
    return model


def chosen_tokens(model: nn.Module, num_tokens: int | None) -> int | None:
    """Check a number of tokens (None: the model's), and warn if the model was not trained for it.

    Raises:
        ConfigError: See :func:`checked_tokens`.
    """
    if num_tokens is None:
        return None
    num_tokens = checked_tokens(model, num_tokens)
    tokenizer = model.backbone.tokenizer
    if num_tokens != tokenizer.num_tokens and not tokenizer.nested:
        print_log(
            f"The model was trained with {tokenizer.num_tokens} tokens only. Train with max_tokens "
            "for any number.",
            "current",
            logging.WARNING,
        )
    return num_tokens


def checked_tokens(model: nn.Module, num_tokens: int) -> int:
    """Return a number of tokens, checked for a model.

    Raises:
        ConfigError: It is not an integer, or the model has no or too few queries.
    """
    if not is_int(num_tokens):
        raise bad_argument("num_tokens", num_tokens, "an integer from 1")
    tokenizer = getattr(model.backbone, "tokenizer", None)
    maximum = getattr(tokenizer, "max_tokens", None)
    if maximum is None:
        kind = type(model.backbone if tokenizer is None else tokenizer).__name__
        raise ConfigError(
            f"the number of tokens of {kind} is fixed",
            expected="a model with hook.HookTokenizer",
            found=kind,
            remedy="omit the number of tokens",
        )
    if not 1 <= num_tokens <= maximum:
        raise ConfigError(
            "the model has no queries for that many tokens",
            expected="1 token or more" if maximum == math.inf else f"1 to {maximum} tokens",
            found=num_tokens,
            remedy="train with a larger max_tokens for more",
        )
    return int(num_tokens)


def _dataset_meta(cfg: Config, checkpoint_meta: Mapping, model: nn.Module) -> dict[str, Any]:
    meta = checkpoint_meta.get("dataset_meta")
    if not isinstance(meta, Mapping):
        meta = find_key(cfg.get("test_dataloader"), "metainfo") or cfg.get("metainfo") or {}
    meta = dict(meta)
    count = get_num_classes(model)
    if not count:  # a pretrained backbone
        return meta | dict(classes=())
    if "classes" in meta:
        meta["classes"] = tuple(meta["classes"])
    meta.setdefault("classes", tuple(f"class_{index}" for index in range(count)))
    if len(meta["classes"]) != count:
        raise ConfigError(
            "the model's head and the dataset meta have different numbers of classes",
            expected=f"{count}, num_classes of the head",
            found=f"{len(meta['classes'])}: {', '.join(map(str, meta['classes']))}",
            remedy="use the config that the checkpoint was trained with",
        )
    return meta


def find_key(section: Any, key: str) -> Any:
    """Return the first value of ``key`` in nested dicts and lists, dataset wrappers included."""
    if isinstance(section, Mapping):
        if section.get(key) is not None:
            return section[key]
        section = list(section.values())
    if isinstance(section, (list, tuple)):
        for part in section:
            if (found := find_key(part, key)) is not None:
                return found
    return None
