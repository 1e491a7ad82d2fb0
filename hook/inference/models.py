"""Models, loaded: from a config with its checkpoint, or by the name of a published one."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from hook.arguments import file_name, is_whole_number, refused
from hook.checkpoint import check_state_dict, get_state_dict, load_checkpoint, load_weights
from hook.engine.configs import find_config
from hook.engine.models import build_model, num_classes_of
from hook.engine.runner import load_config, setup_environment
from hook.errors import ConfigError
from hook.zoo import find_model, read_published


def load_model(
    config_or_name: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Load a model: by its name, from a published file, or a config's with a checkpoint.

    Args:
        config_or_name: Without ``checkpoint`` the name of a model that ``hook models list`` shows,
            or a ``.safetensors`` file that was published; reading it runs no code. With one a
            config: its file, the name of one that comes with HOOK, or one that was read already.
        checkpoint: Checkpoint file of the config's model; every weight must fit.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``.

    Returns:
        The model in evaluation mode, with ``cfg``, ``dataset_meta`` (``classes``, ``palette``,
        ``bands``, ...: the checkpoint's, else the config's) and ``weights_file``.

    Raises:
        ConfigError: The config or the device cannot be used, or there is no model of that name.
        CheckpointError: The checkpoint cannot be read, is not safe, or belongs to another model.
    """
    if not isinstance(config_or_name, Config):
        file_name(
            "config_or_name",
            config_or_name,
            "the name of a model, its .safetensors file, or a config with its checkpoint",
            "`hook models list` shows the models that have a name",
        )
    if checkpoint is not None:
        file_name("checkpoint", checkpoint)
    setup_environment()
    if checkpoint is None:
        model = _load_published(config_or_name)
    else:
        cfg = config_or_name if isinstance(config_or_name, Config) else _read(config_or_name)
        model = build_model(cfg)
        meta = dict(load_weights(model, checkpoint).get("meta") or {})
        model.cfg = cfg
        model.dataset_meta = _dataset_meta(cfg, meta, model)
        model.weights_file = Path(checkpoint)
    try:
        model.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"device {device} cannot be used",
            expected="cpu, or cuda where PyTorch finds a GPU",
            found=str(error).splitlines()[0],
            remedy="leave --device out to run on the CPU",
        ) from None
    return model.eval()


def _read(config: str | os.PathLike) -> Config:
    """Read a config by path, or by the name it has in HOOK."""
    is_name = not Path(config).exists() and Path(config).name == Path(config).stem == str(config)
    return load_config(find_config(config) if is_name else config)


def _load_published(name: str | os.PathLike | Config) -> nn.Module:
    """Load a model that is one file."""
    if isinstance(name, Config) or Path(name).suffix in (".py", ".json", ".yml", ".yaml"):
        raise ConfigError(
            "a config was given without a checkpoint",
            expected="a config and its checkpoint; or the name of a model, or its .safetensors "
            "file, alone; or a model from load_model",
            found=getattr(name, "filename", name),
            remedy="give the checkpoint too",
        )
    if Path(name).suffix in (".pth", ".pt", ".ckpt"):
        raise ConfigError(
            f"checkpoint {name} was given without its config",
            expected="a config and its checkpoint; or a published .safetensors file alone",
            found="a checkpoint alone, which does not say of which model",
            remedy="give the config first, then the checkpoint",
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
        filename=f"{card.name}.json",  # what files made by it will name
        cfg_text=card.to_json(),
        format_python_code=False,
    )
    weights = get_state_dict(load_checkpoint(path))
    with torch.device("meta"):  # before memory is taken for weights that the file has not
        check_state_dict(build_model(cfg), weights, path)
    model = build_model(cfg)
    model.load_state_dict(weights, strict=False)  # only BatchNorm counters may be absent
    model.cfg, model.card, model.weights_file = cfg, card, path
    model.dataset_meta = _dataset_meta(cfg, dict(dataset_meta=card.dataset_meta), model)
    return model


@contextmanager
def use_tokens(model: nn.Module, num_tokens: int | None) -> Iterator[None]:
    """Let a model use another number of tokens for a while.

    Args:
        model: A model with a HOOK tokenizer.
        num_tokens: From 1 to the tokenizer's ``max_tokens``; None changes nothing.

    Raises:
        ConfigError: See :func:`checked_tokens`.
    """
    if num_tokens is None:
        yield
        return
    num_tokens = checked_tokens(model, num_tokens)
    tokenizer = model.backbone.tokenizer
    usual = tokenizer.num_tokens
    if num_tokens != usual and not tokenizer.nested:
        print_log(
            f"The model was trained with all of its {usual} tokens and has to do without some. "
            "Train with max_tokens for any number.",
            "current",
            logging.WARNING,
        )
    tokenizer.num_tokens = num_tokens
    try:
        yield
    finally:
        tokenizer.num_tokens = usual


def checked_tokens(model: nn.Module, num_tokens: int) -> int:
    """Take a number of tokens that a model can have.

    Args:
        model: A model.
        num_tokens: What was given.

    Raises:
        ConfigError: It is no whole number, or the model has no queries to choose from, or too few.
    """
    if not is_whole_number(num_tokens):
        raise refused("num_tokens", num_tokens, "a whole number from 1")
    tokenizer = getattr(require_model(model).backbone, "tokenizer", None)
    most = getattr(tokenizer, "max_tokens", None)
    if most is None:
        kind = type(model.backbone if tokenizer is None else tokenizer).__name__
        raise ConfigError(
            f"the number of tokens of {kind} cannot be chosen",
            expected="a model with hook.HookTokenizer",
            found=kind,
            remedy="leave the number of tokens out",
        )
    if not 1 <= num_tokens <= most:
        raise ConfigError(
            "the model has no queries for that many tokens",
            expected=f"1 to {most} tokens",
            found=num_tokens,
            remedy="train with a larger max_tokens for more",
        )
    return int(num_tokens)


def require_model(model: Any) -> nn.Module:
    """Refuse what is no model that was loaded.

    Raises:
        ConfigError: It is something else, such as a model's name.
    """
    if not hasattr(model, "backbone"):
        raise refused("model", model, "a model from load_model", "load it: load_model(name)")
    return model


def as_model(
    config_or_model: str | os.PathLike | Config | nn.Module,
    checkpoint: str | os.PathLike | None,
    device: str = "cpu",
) -> nn.Module:
    """Return a loaded model as it is; load any other, see :func:`load_model`.

    Raises:
        ConfigError: A config came without a checkpoint, or a model with one.
        CheckpointError: See :func:`load_model`.
    """
    if isinstance(config_or_model, nn.Module):
        if checkpoint is not None:
            raise ConfigError(
                "a loaded model was given, and a checkpoint",
                expected="a config and its checkpoint, or a model and None",
                found="both",
                remedy="leave the checkpoint out",
            )
        return config_or_model
    return load_model(config_or_model, checkpoint, device)


def _dataset_meta(cfg: Config, checkpoint_meta: Mapping, model: nn.Module) -> dict[str, Any]:
    meta = checkpoint_meta.get("dataset_meta")
    if not isinstance(meta, Mapping):
        meta = find_key(cfg.get("test_dataloader"), "metainfo") or cfg.get("metainfo") or {}
    meta = dict(meta)
    count = num_classes_of(model)
    if "classes" in meta:
        meta["classes"] = tuple(meta["classes"])
    meta.setdefault("classes", tuple(f"class_{index}" for index in range(count)))
    if len(meta["classes"]) != count:
        raise ConfigError(
            "the model's head and the dataset meta name different numbers of classes",
            expected=f"{count}, num_classes of the head",
            found=f"{len(meta['classes'])}: {', '.join(map(str, meta['classes']))}",
            remedy="give the config the checkpoint was trained with",
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
