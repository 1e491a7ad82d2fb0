"""Find, read and check configs, with errors that name what is wrong in them."""

import argparse
import contextlib
import difflib
import fnmatch
import importlib.metadata
import inspect
import os
import re
import traceback
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from hook.checkpoint import use_safe_loading
from hook.errors import ConfigError, DataError, HookError
from hook.registry import DATASETS
from hook.zoo import find_model

_PACKAGE = Path(__file__).resolve().parents[1]

# Keys of MMEngine's Runner; other top-level names of a config are user variables.
RUNNER_KEYS = frozenset(
    "model work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg "
    "auto_scale_lr optim_wrapper param_scheduler val_evaluator test_evaluator default_hooks "
    "custom_hooks data_preprocessor load_from resume launcher env_cfg log_processor log_level "
    "visualizer default_scope randomness experiment_name model_wrapper_cfg sync_bn "
    "find_unused_parameters custom_imports activation_checkpointing efficient_conv_bn_eval cfg "
    "compile".split()
)
# Sections that are passed to no constructor, which would refuse unknown keys: keys that are read.
_SECTION_KEYS = {
    "auto_scale_lr": "enable base_batch_size",
    "default_hooks": "runtime_info timer sampler_seed logger param_scheduler checkpoint "
    "visualization",
    "env_cfg": "cudnn_benchmark mp_cfg dist_cfg resource_limit",
    "env_cfg.mp_cfg": "mp_start_method opencv_num_threads",
    "model.test_cfg": "mode crop_size stride tta",
    "optim_wrapper.clip_grad": "type max_norm norm_type clip_value error_if_nonfinite foreach",
    "optim_wrapper.paramwise_cfg": "custom_keys bias_lr_mult bias_decay_mult norm_decay_mult "
    "dwconv_decay_mult flat_decay_mult dcn_offset_lr_mult bypass_duplicate force_default_settings "
    "num_layers decay_rate layer_decay_rate decay_type",
    "optim_wrapper.paramwise_cfg.custom_keys.*": "lr_mult decay_mult lr weight_decay momentum "
    "betas eps",
    "randomness": "seed diff_rank_seed deterministic",
    "*_dataloader.dataset.metainfo": "classes palette bands mean std scale offset nodata "
    "resolution ignore_index",
}

# Distribution names of OpenMMLab's packages, with the maintained fork last.
_DISTRIBUTIONS = {
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
    "mmdet": ("mmdet", "onedl-mmdetection"),
    "mmpretrain": ("mmpretrain", "onedl-mmpretrain"),
}


def setup_environment() -> None:
    """Prepare the process for MMEngine: no installation at run time, safe checkpoints."""
    _map_installed_packages()
    use_safe_loading(find_model)


def _map_installed_packages() -> None:
    """Register the installed distributions of ``mmseg``, ``mmdet`` and ``mmpretrain``.

    Otherwise MMEngine installs ``mmsegmentation`` by pip if ``mmseg`` is from a distribution with a
    different name, such as its maintained fork.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    for module, names in _DISTRIBUTIONS.items():
        for name in names:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                MODULE2PACKAGE[module] = importlib.metadata.distribution(name).name


def config_root() -> Path:
    """Return the folder of the configs: in the repository, or ``.mim/configs`` of the package."""
    source = _PACKAGE.parent / "configs"
    return source if (source / "_base_").is_dir() else _PACKAGE / ".mim" / "configs"


def find_config(name: str | os.PathLike) -> Path:
    """Return the path of a config.

    Args:
        name: Path, or name of a config of HOOK with or without folder and ``.py``.

    Raises:
        ConfigError: If the config does not exist.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    root = config_root()
    files = (p for p in sorted(root.rglob("*.py")) if "_base_" not in p.relative_to(root).parts)
    known = {p.stem: p for p in files}
    stem = path.name.removesuffix(".py")
    if stem in known and len(path.parts) <= 2:
        return known[stem]
    close = difflib.get_close_matches(stem, known, n=3)
    raise ConfigError(
        f"config {name} does not exist",
        expected="a config file, or the name of a config of HOOK",
        found="nothing of this name" + (f"; similar: {', '.join(close)}" if close else ""),
        remedy="check the path, or use a name from configs/",
    )


def load_config(
    path: str | os.PathLike, options: dict[str, Any] | None = None, needs_model: bool = True
) -> Config:
    """Read a config file.

    Args:
        path: A Python config in MMEngine's style.
        options: Dotted keys and values to override (``--cfg-options``).
        needs_model: Raise an error for a config without a model.

    Raises:
        ConfigError: If the file or one of its ``_base_`` files is missing, is not valid Python or
            has no model, or an option cannot be set.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"config {path} does not exist",
            expected="a .py config file",
            found="a folder" if path.is_dir() else "nothing",
            remedy="the configs of HOOK are under configs/",
        )
    if path.suffix not in (".py", ".json", ".yml", ".yaml"):
        raise ConfigError(
            f"config {path} has an unknown ending",
            expected=".py, .json, .yml or .yaml",
            found=path.suffix or "none",
            remedy="pass the config first, the checkpoint second",
        )
    _map_installed_packages()
    try:
        cfg = Config.fromfile(str(path))
    except HookError:
        raise
    except Exception as error:  # a config can run any Python code
        raise ConfigError(
            f"config {path} cannot be read",
            expected="a Python file in MMEngine's config style whose _base_ files exist",
            found=f"{type(error).__name__}: {_first_line(error)}",
            remedy="correct the config",
        ) from error
    if options:
        merge_options(cfg, options, "--cfg-options")
    _check_keys(cfg, path, needs_model)
    return cfg


def merge_options(cfg: Config, options: Mapping[str, Any], name: str) -> None:
    """Override settings of a config; warn of those that nothing reads.

    Args:
        cfg: The config.
        options: Dotted keys and values.
        name: Name of the options in messages.

    Raises:
        ConfigError: If the config has no such setting, or it cannot be overridden.
    """
    remedy = "name keys as tools/misc/print_config.py prints them"
    read = RUNNER_KEYS | {"runner_type"}
    for key in options:
        top = key.partition(".")[0]
        if top not in cfg and top not in read:
            close = difflib.get_close_matches(top, read | set(cfg), n=1)
            raise ConfigError(
                f"{name} {key}: the config has no setting '{top}'",
                expected=close[0] if close else "a setting of the config",
                found=top,
                remedy=remedy,
            )
        if top not in read or (top == "data_preprocessor" and top in cfg.get("model", ())):
            _warn_unused(cfg, key, name)
    try:
        cfg.merge_from_dict(dict(options))
    except Exception as error:
        raise ConfigError(
            f"{name} {' '.join(options)} cannot be merged into the config",
            expected="dotted keys of the config, such as optim_wrapper.optimizer.lr",
            found=f"{type(error).__name__}: {_first_line(error)}",
            remedy=remedy,
        ) from error


def _warn_unused(cfg: Config, key: str, name: str) -> None:
    """Warn that an option overrides a mere variable, and name the settings of its value."""
    settings = {k: v for k, v in cfg.items() if k in RUNNER_KEYS - {"data_preprocessor"}}
    value = cfg.to_dict()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    same = [] if value is None else [path for path, v in _leaves(settings) if v == value]
    warnings.warn(
        f"{name} {key} has no effect: the config only uses '{key.partition('.')[0]}' while it is "
        "read. Override the settings themselves"
        + f"; of the same value are {', '.join(same[:4])}"
        * bool(same),
        stacklevel=4,
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and value of all settings."""
    if path:
        yield path, value
    items = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list | tuple):
        items = enumerate(value)
    for key, one in items:
        yield from _leaves(one, f"{path}.{key}" if path else str(key))


def _check_keys(cfg: Config, path: Path, needs_model: bool) -> None:
    if needs_model and (not isinstance(cfg.get("model"), dict) or "type" not in cfg.model):
        raise ConfigError(
            f"config {path} describes no model",
            expected="model = dict(type=..., ...)",
            found=f"the keys {', '.join(cfg) or 'none'}",
            remedy="pass a complete config, not one of the parts under _base_",
        )
    _check_spelling(path, "", cfg, RUNNER_KEYS, 0.88)
    for name, keys in _SECTION_KEYS.items():
        for place, section in _sections(cfg, name.split(".")):
            _check_spelling(path, place, section, keys.split(), 0.85)


def _sections(cfg: Mapping, names: Sequence[str], place: str = "") -> Iterator[tuple[str, Mapping]]:
    """Yield the sections at a path of patterns, with their dotted keys and a dot."""
    if not names:
        yield place, cfg
        return
    for key, value in cfg.items():
        if isinstance(value, Mapping) and fnmatch.fnmatchcase(str(key), names[0]):
            yield from _sections(value, names[1:], f"{place}{key}.")


def _check_spelling(
    path: Path, place: str, section: Iterable, known: Collection[str], cutoff: float
) -> None:
    """Raise ConfigError for a key that is unknown and resembles a known one.

    Others are the user's own, and so are numbered ones, such as a second ``checkpoint2``.
    """
    for key in map(str, section):
        if key in known or re.sub(r"_?\d+$", "", key) in known:
            continue
        if close := difflib.get_close_matches(key, known, n=1, cutoff=cutoff):
            raise ConfigError(
                f"config {path} has the unknown key '{place}{key}'",
                expected=place + close[0],
                found=place + key,
                remedy=f"spell it '{close[0]}', or rename your own",
            )


def build_dataset(
    cfg: Config, split: str, change: Callable[[dict], dict] = lambda section: section
) -> Any:
    """Build the data set of a split.

    Args:
        cfg: From :func:`load_config`.
        split: ``'train'``, ``'val'`` or ``'test'``.
        change: Function applied to the config section of the data set.

    Raises:
        ConfigError: If the config has no such split, or its data set cannot be built.
        DataError: If the data are missing or invalid.
    """
    init_default_scope(cfg.get("default_scope", "hook"))
    loader = cfg.get(f"{split}_dataloader")
    if not loader or "dataset" not in loader:
        raise ConfigError(
            f"{cfg.filename} has no {split} data: it has no {split}_dataloader",
            expected=f"{split}_dataloader=dict(dataset=...)",
            found=", ".join(key for key in cfg if key.endswith("_dataloader")) or "none",
            remedy="add it to the config, or choose a different split",
        )
    with config_errors(f"{split}_dataloader.dataset"):
        return DATASETS.build(change(loader.dataset))


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def config_errors(section: str):
    """Convert errors of registries and constructors to :class:`ConfigError`.

    Args:
        section: The part of the config that is built, for the message.
    """
    try:
        yield
    except HookError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"a file in {section} of the config is missing",
            found=_first_line(error),
            remedy="check the paths in the config, or override them with --cfg-options",
        ) from error
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise ConfigError(
            f"a folder in {section} of the config cannot be used",
            found=str(error),
            remedy="choose a different folder, e.g. with --work-dir",
        ) from error
    except (
        *(KeyError, TypeError, ValueError, AssertionError, AttributeError, ImportError),
        NotImplementedError,  # mmseg's constructors of optimizers know a few backbones only
    ) as error:
        text = str(error.args[0]) if error.args else ""
        # The first sentence of MMEngine's message on an unknown type is sufficient.
        reason = text.partition(". Please check")[0].partition("\n")[0]
        raise ConfigError(
            f"{section} of the config cannot be built",
            expected=_resembled_argument(error, text),
            found=f"{type(error).__name__}: {reason or 'not supported for this model'}",
            remedy="correct this part of the config; tools/misc/print_config.py prints all of it",
        ) from error


def _resembled_argument(error: BaseException, text: str) -> str | None:
    """Return the argument that an unexpected one of a constructor resembles, if any."""
    match = re.search(r"(\w+)(\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", text)
    if match is None:
        return None
    names: set[str] = set()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        # MMEngine's registries call a local variable, its runner a global class.
        kind = frame.f_locals.get("obj_cls") or frame.f_globals.get(match[1])
        for one in getattr(kind, "__mro__", (object,))[:-1]:
            with contextlib.suppress(ValueError):  # of a built-in class
                names |= {*inspect.signature(one.__init__).parameters} - {"self"}
    close = difflib.get_close_matches(match[3], names, n=1)
    return close[0] if close else None


class ConfigOptions(DictAction):
    """``--cfg-options KEY=VALUE ...`` as in MMEngine, which however removes all spaces.

    Malformed pairs are errors with a message.
    """

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """Parse a value: a list in brackets or with commas, a number, a bool, None or text."""
        given = val.strip("'\"")
        text = given.strip()
        inner = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else None
        if inner is None and "," not in text:
            value = DictAction._parse_int_float_bool(text)
            return given if isinstance(value, str) else value
        if text.count("(") != text.count(")") or text.count("[") != text.count("]"):
            raise ValueError(f"imbalanced brackets in {text}")
        parts, depth = [""], 0
        for character in text if inner is None else inner:
            depth += (character in "([") - (character in ")]")
            if character == "," and not depth:
                parts.append("")
            else:
                parts[-1] += character
        if not parts[-1].strip():
            parts.pop()  # after a last comma, or between empty brackets
        values = [ConfigOptions._parse_iterable(part.strip()) for part in parts]
        return tuple(values) if text[:1] == "(" and inner is not None else values

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Parse the pairs into a dict of dotted keys."""
        try:
            super().__call__(parser, namespace, values, option_string)
        except (ValueError, AssertionError) as error:
            parser.error(
                f"argument {option_string}: expected KEY=VALUE pairs such as "
                f'optim_wrapper.optimizer.lr=1e-4 or key="[a,b]", got {" ".join(values)} ({error})'
            )


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        metavar="KEY=VALUE",
        help="override settings of the config, such as optim_wrapper.optimizer.lr=1e-4; lists "
        'as key="[a,b]" or key=a,b, values with spaces as key="a b"',
    )


def make_folder(folder: str | os.PathLike, option: str) -> Path:
    """Create the output folder of an option.

    Raises:
        ConfigError: If it is a file, or cannot be created or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is not writable")
    except OSError as error:
        raise ConfigError(
            f"{option} {folder} is a file" if folder.is_file() else f"{option} {folder}: no folder",
            expected="a new or existing folder with write permission",
            found=error,
            remedy=f"choose a different {option}",
        ) from None
    return folder


def as_list(value: Any) -> list:
    """Return a config entry (None, a dict or a sequence of dicts) as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) else [value]
