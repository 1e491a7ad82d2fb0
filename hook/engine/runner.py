"""What ``tools/train.py`` and ``tools/test.py`` share: reading configs and setting up a run."""

import argparse
import contextlib
import difflib
import functools
import importlib.metadata
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.dist import master_only
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import BaseLoop, CheckpointLoader, Runner

from hook.checkpoint import (
    check_classes,
    check_some_weights,
    check_state_dict,
    find_resumable,
    get_state_dict,
    load_checkpoint,
    use_safe_loading,
)
from hook.errors import ConfigError, DataError, HookError
from hook.registry import DATASETS

# The keys MMEngine's Runner reads; any other top-level name of a config is a variable of its own.
RUNNER_KEYS = frozenset(
    "model work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg "
    "auto_scale_lr optim_wrapper param_scheduler val_evaluator test_evaluator default_hooks "
    "custom_hooks data_preprocessor load_from resume launcher env_cfg log_processor log_level "
    "visualizer default_scope randomness experiment_name model_wrapper_cfg sync_bn "
    "find_unused_parameters custom_imports activation_checkpointing cfg compile".split()
)

# The names under which OpenMMLab's packages are published, the maintained fork's last.
_DISTRIBUTIONS = {
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
    "mmdet": ("mmdet", "onedl-mmdetection"),
    "mmpretrain": ("mmpretrain", "onedl-mmpretrain"),
}


# ---------------------------------------------------------------------------------- set-up
def setup_environment() -> None:
    """Prepare the process for MMEngine: no installation at run time, safe checkpoints."""
    # mmcv without compiled ops is what this project runs on.
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    _map_installed_packages()
    use_safe_loading()


def _map_installed_packages() -> None:
    """Tell MMEngine which distribution provides ``mmseg`` and its kin.

    MMEngine asks pip to install ``mmsegmentation`` where the module comes from a distribution of
    another name, such as its maintained fork.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    for module, names in _DISTRIBUTIONS.items():
        for name in names:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                MODULE2PACKAGE[module] = importlib.metadata.distribution(name).name


def setup_distributed(cfg: Config) -> None:
    """Start the process group where MMEngine's launcher would ask for a GPU that is not there.

    With a GPU this does nothing and MMEngine starts NCCL. Without, the group runs over gloo.

    Args:
        cfg: The run's config; ``launcher`` is read, ``model_wrapper_cfg`` is set.

    Raises:
        ConfigError: The process was not started by the launcher named.
    """
    launcher = cfg.get("launcher", "none")
    if launcher == "none":
        return
    variables = {
        "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
        "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"),
        "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    }[launcher]
    absent = [name for name in variables if name not in os.environ]
    if absent:
        started_by = {
            "pytorch": "tools/dist_train.sh or torchrun",
            "slurm": "tools/slurm_train.sh or srun",
            "mpi": "mpirun",
        }[launcher]
        raise ConfigError(
            f"--launcher {launcher}: this process was not started by that launcher",
            expected=f"the environment variables {', '.join(variables)}",
            found=f"{', '.join(absent)} not set",
            remedy=f"start the run with {started_by}, or leave --launcher out for one process",
        )
    if torch.cuda.is_available():
        return
    if launcher == "slurm":
        os.environ["RANK"] = os.environ["SLURM_PROCID"]
        os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
        os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
        os.environ.setdefault("MASTER_ADDR", _first_slurm_host(os.environ["SLURM_NODELIST"]))
    elif launcher == "mpi":
        os.environ["RANK"] = os.environ["OMPI_COMM_WORLD_RANK"]
        os.environ["WORLD_SIZE"] = os.environ["OMPI_COMM_WORLD_SIZE"]
        os.environ["LOCAL_RANK"] = os.environ["OMPI_COMM_WORLD_LOCAL_RANK"]
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    wrapper = cfg.get("model_wrapper_cfg") or {}
    wrapper.setdefault("type", "MMDistributedDataParallel")
    wrapper.setdefault("broadcast_buffers", False)
    wrapper.setdefault("find_unused_parameters", cfg.get("find_unused_parameters", False))
    wrapper["device_ids"] = None
    cfg.model_wrapper_cfg = wrapper


def _first_slurm_host(nodelist: str) -> str:
    """Return the first host of Slurm's short form, such as ``node[03-05,09]`` -> ``node03``."""
    prefix, bracket, rest = nodelist.partition("[")
    if not bracket:
        return prefix.split(",")[0]
    if "," in prefix:
        return prefix.split(",")[0]
    return prefix + re.split(r"[-,\]]", rest)[0]


# ---------------------------------------------------------------------------------- configs
def load_config(
    path: str | os.PathLike, options: dict[str, Any] | None = None, needs_model: bool = True
) -> Config:
    """Read a config file.

    Args:
        path: A Python config in MMEngine's style.
        options: Dotted keys and values that overwrite the file's (``--cfg-options``).
        needs_model: Refuse a config without a model.

    Raises:
        ConfigError: The file or one of its ``_base_`` files is missing, is not valid Python, has
            no model, or an option cannot be set.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"config {path} does not exist",
            expected="a .py config file",
            found="a folder" if path.is_dir() else "nothing",
            remedy="the configs that come with HOOK are under configs/",
        )
    if path.suffix not in (".py", ".json", ".yml", ".yaml"):
        raise ConfigError(
            f"config {path} has an unknown ending",
            expected=".py, .json, .yml or .yaml",
            found=path.suffix or "none",
            remedy="give the config first, the checkpoint second",
        )
    _map_installed_packages()
    try:
        cfg = Config.fromfile(str(path))
    except HookError:
        raise
    except Exception as error:  # a config is Python: it can fail in any way
        raise ConfigError(
            f"config {path} cannot be read",
            expected="a Python file in MMEngine's config style whose _base_ files exist",
            found=f"{type(error).__name__}: {_first_line(error)}",
            remedy="correct the config",
        ) from error
    if options:
        try:
            cfg.merge_from_dict(options)
        except Exception as error:
            raise ConfigError(
                f"--cfg-options {' '.join(options)} cannot be merged into {path}",
                found=f"{type(error).__name__}: {_first_line(error)}",
                remedy="name keys as tools/misc/print_config.py prints them",
            ) from error
    _check_keys(cfg, path, needs_model)
    return cfg


def _check_keys(cfg: Config, path: Path, needs_model: bool) -> None:
    if needs_model and (not isinstance(cfg.get("model"), dict) or "type" not in cfg.model):
        raise ConfigError(
            f"config {path} describes no model",
            expected="model = dict(type=..., ...)",
            found=f"the keys {', '.join(cfg) or 'none'}",
            remedy="give a whole config, not one of the parts under _base_",
        )
    for key in cfg:
        if key in RUNNER_KEYS:
            continue
        close = difflib.get_close_matches(key, RUNNER_KEYS, n=1, cutoff=0.88)
        if close:
            raise ConfigError(
                f"config {path} has the unknown key '{key}'",
                expected=close[0],
                found=key,
                remedy=f"spell it '{close[0]}', or give your own variable another name",
            )


def build_dataset(
    cfg: Config, split: str, change: Callable[[dict], dict] = lambda section: section
) -> Any:
    """Build the data set of a split.

    Args:
        cfg: From :func:`load_config`.
        split: ``'train'``, ``'val'`` or ``'test'``.
        change: Takes the data set's section, and returns the one to build.

    Raises:
        ConfigError: The config has no such split, or its data set cannot be built.
        DataError: The data are missing or broken.
    """
    init_default_scope(cfg.get("default_scope", "hook"))
    loader = cfg.get(f"{split}_dataloader")
    if not loader or "dataset" not in loader:
        raise ConfigError(
            f"{cfg.filename} has no {split} data: it has no {split}_dataloader",
            expected=f"{split}_dataloader=dict(dataset=...)",
            found=", ".join(key for key in cfg if key.endswith("_dataloader")) or "none",
            remedy="add it to the config, or choose another split",
        )
    with config_errors(f"{split}_dataloader.dataset"):
        return DATASETS.build(change(loader.dataset))


def set_work_dir(cfg: Config, config_path: str | os.PathLike, work_dir: str | None) -> None:
    """Choose the run's folder: the option, else the config's, else ``work_dirs/<config name>``."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = os.path.join("work_dirs", Path(config_path).stem)


def set_amp(cfg: Config, asked: bool) -> None:
    """Choose the optimizer wrapper for mixed precision.

    On a GPU ``--amp`` gives MMEngine's float16 wrapper. On a CPU it gives bfloat16 autocast, and a
    config that names ``AmpOptimWrapper`` without being asked trains in float32.

    Raises:
        ConfigError: The config's optimizer wrapper has no mixed-precision form.
    """
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None:
        return
    has_gpu = torch.cuda.is_available()
    kind = wrapper.get("type", "OptimWrapper")
    name = kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__
    if asked and name not in ("OptimWrapper", "AmpOptimWrapper", "CPUAmpOptimWrapper"):
        raise ConfigError(
            f"--amp: optim_wrapper.type is {name}",
            expected="OptimWrapper or AmpOptimWrapper",
            found=name,
            remedy="leave --amp out, or change optim_wrapper.type in the config",
        )
    if has_gpu:
        if asked:
            wrapper.type = "AmpOptimWrapper"
            wrapper.setdefault("loss_scale", "dynamic")
        return
    if not asked and name != "AmpOptimWrapper":
        return
    wrapper.type = "CPUAmpOptimWrapper" if asked else "OptimWrapper"
    for key in ("loss_scale", "dtype", "use_fsdp"):
        wrapper.pop(key, None)
    precision = "bfloat16 autocast" if asked else "float32 (--amp gives bfloat16 autocast)"
    print_log(f"No GPU here: training runs in {precision}.", "current", logging.WARNING)


def set_auto_scale_lr(cfg: Config) -> None:
    """Switch on linear scaling of the learning rate with the batch size.

    Raises:
        ConfigError: The config does not say the batch size its rate was made for.
    """
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise ConfigError(
            "--auto-scale-lr: the config does not say for which batch size its rate was made",
            expected="auto_scale_lr = dict(base_batch_size=<images per step>)",
            found=cfg.get("auto_scale_lr"),
            remedy="add it to the config",
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, resume: str | None) -> None:
    """Set the checkpoint to resume from.

    Args:
        cfg: The run's config, with ``work_dir``.
        resume: None for no resume, ``'auto'`` for the newest readable checkpoint of the work dir
            (a fresh start where there is none), or a checkpoint file.

    Raises:
        CheckpointError: The file is missing, or no checkpoint of the work dir can be read.
    """
    if resume is None:
        # Asked for in the config: the same rules hold.
        if not cfg.get("resume"):
            return
        resume = cfg.get("load_from") or "auto"
    if resume == "auto":
        path = find_resumable(cfg.work_dir)
        if path is None:
            print_log(f"Nothing to resume in {cfg.work_dir}: starting afresh.", "current")
            cfg.resume = False
            return
    else:
        load_checkpoint(resume)  # ends the run now, not after the data have been read
        path = Path(resume)
    cfg.resume = True
    cfg.load_from = str(path)


def set_output(cfg: Config, folder: str | os.PathLike) -> None:
    """Let the test metrics write predictions into a folder.

    Raises:
        ConfigError: The folder is a file, or none of the metrics can write predictions.
    """
    metrics = as_list(cfg.get("test_evaluator"))
    writers = 0
    for metric in metrics:
        kind = metric.get("type", "")
        name = kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__
        if name in ("IoUMetric", "Accuracy"):
            metric.type = f"hook.{name}"
            metric.output_dir = str(folder)
            writers += 1
    if not writers:
        raise ConfigError(
            "--out: no metric of test_evaluator can write predictions",
            expected="hook.IoUMetric or hook.Accuracy",
            found=", ".join(str(metric.get("type")) for metric in metrics) or "none",
            remedy="add one of them to test_evaluator",
        )
    make_folder(folder, "--out")


def make_folder(folder: str | os.PathLike, option: str) -> Path:
    """Create the folder an option names, before the work whose results it is to hold.

    Raises:
        ConfigError: It is a file, or cannot be created or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is not writable")
    except OSError as error:
        raise ConfigError(
            f"{option} {folder} is a file" if folder.is_file() else f"{option} {folder}: no folder",
            expected="a folder to write to, new or old",
            found=error,
            remedy=f"choose another {option}",
        ) from None
    return folder


def set_show_dir(cfg: Config, folder: str | os.PathLike) -> None:
    """Let the visualisation hook draw every test image into a folder.

    Raises:
        ConfigError: The folder cannot be used.
    """
    make_folder(folder, "--show-dir")
    hooks = [
        hook
        for hook in as_list(cfg.get("custom_hooks"))
        if not str(hook.get("type")).endswith("TokenVisualizationHook")
    ]
    hooks.append(
        dict(
            type="hook.TokenVisualizationHook",
            draw_test=True,
            max_images=sys.maxsize,
            out_dir=str(folder),
        )
    )
    cfg.custom_hooks = hooks


def set_tta(cfg: Config, kind: str = "d4") -> None:
    """Let the test average over views of each image (:func:`hook.engine.tta.views`).

    Raises:
        ConfigError: The model cannot.
    """
    cfg.model = upgrade_model(cfg.model)
    kinds = ("hook.TokenSegmentor", "hook.TokenClassifier")
    if cfg.model.type not in (*kinds, *(kind.partition(".")[2] for kind in kinds)):
        raise ConfigError(
            "--tta: the model cannot average over views",
            expected=" or ".join(kinds),
            found=cfg.model.type,
            remedy="leave --tta out",
        )
    cfg.model.test_cfg = {**(cfg.model.get("test_cfg") or {}), "tta": kind}


# ---------------------------------------------------------------------------------- errors
def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def config_errors(section: str):
    """Turn what registries and constructors raise for a bad config into a :class:`ConfigError`.

    Args:
        section: The config's part that is being built, for the message.
    """
    try:
        yield
    except HookError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"a file that {section} of the config names is missing",
            found=_first_line(error),
            remedy="check the paths in the config, or overwrite them with --cfg-options",
        ) from error
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise ConfigError(
            f"a folder that {section} of the config names cannot be used",
            found=str(error),
            remedy="choose another folder, such as with --work-dir",
        ) from error
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError, ImportError) as error:
        text = str(error.args[0]) if error.args else ""
        # Of MMEngine's message on an unknown type the first sentence says it all.
        reason = text.partition(". Please check")[0].partition("\n")[0]
        raise ConfigError(
            f"{section} of the config cannot be built",
            found=f"{type(error).__name__}: {reason}",
            remedy="correct this part of the config; tools/misc/print_config.py prints it whole",
        ) from error


_WORKER_ERROR = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.")


def unwrap_worker_error(error: HookError) -> HookError:
    """Return the error a data-loader worker raised, without PyTorch's copy of the traceback."""
    text = error.what
    if not _WORKER_ERROR.match(text):
        return error
    marker = f"{type(error).__module__}.{type(error).__name__}: "
    message = text.rpartition(marker)[2].rstrip()
    return type(error)(message) if message else error


@contextmanager
def worker_errors():
    """Let errors of data-loader workers and of tokenizers arrive as a user can read them."""
    try:
        yield
    except HookError as error:
        plain = unwrap_worker_error(error)
        if plain is error:
            raise
        raise plain from None
    except ValueError as error:
        # Tokenizers know nothing of HOOK's errors; they raise this for images they cannot take.
        *_, (last, _) = traceback.walk_tb(error.__traceback__)
        if not last.f_globals.get("__name__", "").startswith("hook.tokenizers"):
            raise
        raise ConfigError(
            "the images do not fit the tokenizer",
            expected="images of a size and a number of bands that model.backbone.tokenizer takes",
            found=str(error),
            remedy="resize or crop in the pipeline, or change the tokenizer's options",
        ) from None


def _reports(section: str, method: Callable) -> Callable:
    @functools.wraps(method)
    def wrapped(*args, **kwargs):
        with config_errors(section):
            return method(*args, **kwargs)

    return wrapped


# ---------------------------------------------------------------------------------- runner
def upgrade_model(model: dict | torch.nn.Module) -> dict | torch.nn.Module:
    """Let configs that name mmseg's ``EncoderDecoder`` get :class:`hook.models.TokenSegmentor`.

    It is the same model, with the same keys and numbers, and returns the tokens of its images.
    The config itself stays as it is.

    Args:
        model: Section ``model`` of a config; a model that is built already is left alone.
    """
    kind = model.get("type") if isinstance(model, Mapping) else None
    if isinstance(kind, type):  # of a config in MMEngine's lazy style
        kind = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    if kind not in ("EncoderDecoder", "mmseg.EncoderDecoder"):
        return model
    return ConfigDict(model, type="hook.TokenSegmentor")


@RUNNERS.register_module()
class HookRunner(Runner):
    """MMEngine's runner with safe checkpoints, whole files and errors a user can read.

    - Checkpoints appear under their final name only when complete.
    - Testing and resuming demand that every weight fits; ``load_from`` of a training run
      (fine-tuning) may leave some out, as in MMEngine, but not all.
    - What a config gets wrong ends the run with a :class:`hook.errors.ConfigError`.
    - A resumed run first makes up for a validation that the interruption cut off.
    """

    build_train_loop = _reports("train_dataloader / train_cfg", Runner.build_train_loop)
    build_val_loop = _reports("val_dataloader / val_evaluator", Runner.build_val_loop)
    build_test_loop = _reports("test_dataloader / test_evaluator", Runner.build_test_loop)
    build_optim_wrapper = _reports("optim_wrapper", Runner.build_optim_wrapper)
    build_param_scheduler = _reports("param_scheduler", Runner.build_param_scheduler)
    build_visualizer = _reports("visualizer", Runner.build_visualizer)
    build_log_processor = _reports("log_processor", Runner.build_log_processor)

    def __init__(self, *args, **kwargs) -> None:
        self._needs_every_weight = False
        super().__init__(*args, **kwargs)

    def build_model(self, model) -> torch.nn.Module:
        """Build the model; see :func:`upgrade_model`."""
        with config_errors("model"):
            return super().build_model(upgrade_model(model))

    def register_hooks(self, default_hooks=None, custom_hooks=None) -> None:
        """Register the config's hooks and the one that completes a cut-off validation."""
        from hook.engine.resume_hook import ResumeValidationHook

        with config_errors("default_hooks / custom_hooks"):
            super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(ResumeValidationHook())

    def train(self):
        """Train as MMEngine does; see the class for the differences."""
        with worker_errors():
            return super().train()

    def val(self) -> dict:
        """Validate a checkpoint of exactly this model."""
        self._needs_every_weight = True
        with worker_errors():
            return super().val()

    def test(self) -> dict:
        """Test a checkpoint of exactly this model."""
        self._needs_every_weight = True
        with worker_errors():
            return super().test()

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Resume from a checkpoint of exactly this model."""
        self._needs_every_weight = True
        super().resume(filename, *args, **kwargs)
        self.message_hub.update_info("resumed_from", str(filename), resumed=False)

    def load_checkpoint(self, filename: str, *args, **kwargs) -> dict:
        """Load a checkpoint that fits: with every weight where the run needs it, else with some."""
        model = self.model.module if is_model_wrapper(self.model) else self.model
        checkpoint = CheckpointLoader.load_checkpoint(str(filename), map_location="cpu")
        if not self._needs_every_weight:
            check_some_weights(model, get_state_dict(checkpoint), filename)
        else:
            check_state_dict(model, get_state_dict(checkpoint), filename)
            if isinstance(self._test_loop, BaseLoop):  # built: this is a test
                meta = getattr(self._test_loop.dataloader.dataset, "metainfo", {})
                if meta.get("classes"):
                    check_classes(model, checkpoint, meta["classes"], filename)
        return super().load_checkpoint(filename, *args, **kwargs)

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """Write a checkpoint under a temporary name, then give it the final one."""
        partial = f".{filename}.partial"
        super().save_checkpoint(out_dir, partial, *args, **kwargs)
        os.replace(os.path.join(out_dir, partial), os.path.join(out_dir, filename))


def build_runner(cfg: Config, kind: type[HookRunner] = HookRunner) -> Runner:
    """Build the run a config describes.

    Args:
        cfg: The config.
        kind: Runner of a config that names none.

    Raises:
        ConfigError: A part of the config cannot be built.
    """
    setup_environment()
    with config_errors("a part"):
        if "runner_type" in cfg:
            return RUNNERS.build(cfg)
        return kind.from_cfg(cfg)


# ---------------------------------------------------------------------------------- options
class ConfigOptions(DictAction):
    """``--cfg-options KEY=VALUE ...`` that answers a malformed pair with the accepted form."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Read the pairs into a dict of dotted keys."""
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
        help="overwrite settings of the config, such as optim_wrapper.optimizer.lr=1e-4; lists "
        'as key="[a,b]" or key=a,b',
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share, under the names OpenMMLab users know."""
    parser.add_argument("--work-dir", help="folder for logs and results")
    add_config_options(parser)
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how several processes were started",
    )
    # PyTorch's launchers pass either spelling.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def prepare(args: argparse.Namespace) -> Config:
    """Read the config of a command and apply the options of :func:`add_common_options`."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    setup_environment()
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.config, args.work_dir)
    setup_distributed(cfg)
    return cfg


def as_list(value: Any) -> list:
    """Return a config entry that may be one dict or a sequence of dicts as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) else [value]
