"""Set up runs of ``tools/train.py`` and ``tools/test.py``."""

import argparse
import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, CheckpointLoader, Runner

from hook.checkpoint import (
    check_classes,
    check_some_weights,
    check_state_dict,
    find_resumable,
    get_state_dict,
    load_checkpoint,
    warn_input_changes,
)
from hook.engine.configs import (
    add_config_options,
    as_list,
    config_errors,
    load_config,
    make_folder,
    setup_environment,
)
from hook.engine.models import fit_loaded_positions, upgrade_model
from hook.engine.optim import CPUAmpOptimWrapper
from hook.errors import ConfigError, HookError


# ---------------------------------------------------------------------------------- set-up
def setup_distributed(cfg: Config) -> None:
    """Start a gloo process group if there is no GPU; with a GPU MMEngine starts NCCL.

    Args:
        cfg: The run's config; ``launcher`` is read, ``model_wrapper_cfg`` is set.

    Raises:
        ConfigError: If the process was not started by the launcher.
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
            remedy=f"start the run with {started_by}, or omit --launcher for one process",
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
    prefix, bracket, ranges = nodelist.partition("[")
    if not bracket or "," in prefix:
        return prefix.split(",")[0]
    return prefix + re.split(r"[-,\]]", ranges)[0]


# ---------------------------------------------------------------------------------- configs
def set_work_dir(cfg: Config, config_path: str | os.PathLike, work_dir: str | None) -> None:
    """Set the work dir: the option, else the config's, else ``work_dirs/<config name>``."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = os.path.join("work_dirs", Path(config_path).stem)


def set_amp(cfg: Config, asked: bool) -> None:
    """Set the optimizer wrapper for mixed precision.

    ``--amp`` selects MMEngine's float16 wrapper on a GPU, bfloat16 autocast on a CPU. Without it a
    config with ``AmpOptimWrapper`` trains in float32 on a CPU.

    Raises:
        ConfigError: If the config's optimizer wrapper does not support mixed precision.
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
            remedy="omit --amp, or change optim_wrapper.type in the config",
        )
    if has_gpu:
        if asked:
            wrapper.type = "AmpOptimWrapper"
            wrapper.setdefault("loss_scale", "dynamic")
        return
    if not asked and name != "AmpOptimWrapper":
        return
    wrapper.type = CPUAmpOptimWrapper.__name__ if asked else "OptimWrapper"
    for key in ("loss_scale", "dtype", "use_fsdp"):
        wrapper.pop(key, None)
    precision = "bfloat16 autocast" if asked else "float32 (use --amp for bfloat16 autocast)"
    print_log(f"No GPU: training runs in {precision}.", "current", logging.WARNING)


def set_auto_scale_lr(cfg: Config) -> None:
    """Enable linear scaling of the learning rate with the batch size.

    Raises:
        ConfigError: If the config has no base batch size.
    """
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise ConfigError(
            "--auto-scale-lr: the config has no base batch size for its learning rate",
            expected="auto_scale_lr = dict(base_batch_size=<images per step>)",
            found=cfg.get("auto_scale_lr"),
            remedy="add it to the config",
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, resume: str | None) -> None:
    """Set the checkpoint to resume from.

    Args:
        cfg: The run's config, with ``work_dir``.
        resume: None to use the config's ``resume``, ``'auto'`` for the newest readable checkpoint
            of the work dir (a new start if there is none), or a checkpoint file.

    Raises:
        CheckpointError: If the file is missing, or no checkpoint of the work dir can be read.
    """
    if resume is None:
        if not cfg.get("resume"):
            return
        resume = cfg.get("load_from") or "auto"
    if resume == "auto":
        path = find_resumable(cfg.work_dir)
        if path is None:
            print_log(f"Nothing to resume in {cfg.work_dir}: starting anew.", "current")
            cfg.resume = False
            return
    else:
        load_checkpoint(resume)  # fails before the data are read
        path = Path(resume)
    cfg.resume = True
    cfg.load_from = str(path)


def set_output(cfg: Config, folder: str | os.PathLike) -> None:
    """Set the folder that test metrics write predictions to.

    Raises:
        ConfigError: If the folder is a file, or no metric can write predictions.
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


def set_show_dir(cfg: Config, folder: str | os.PathLike) -> None:
    """Set the folder that the visualisation hook draws all test images to.

    Raises:
        ConfigError: If the folder cannot be used.
    """
    make_folder(folder, "--show-dir")
    hooks = [
        hook
        for hook in as_list(cfg.get("custom_hooks"))
        if not str(hook.get("type")).endswith("TokenVisualizationHook")
    ]
    options = dict(draw_test=True, max_images=sys.maxsize, out_dir=str(folder))
    cfg.custom_hooks = [*hooks, dict(type="hook.TokenVisualizationHook", **options)]


def set_tta(cfg: Config, kind: str = "d4") -> None:
    """Enable test-time augmentation (:func:`hook.engine.tta.views`).

    Raises:
        ConfigError: If the model does not support it.
    """
    cfg.model = upgrade_model(cfg.model)
    kinds = ("hook.TokenSegmentor", "hook.TokenClassifier")
    if cfg.model.type not in (*kinds, *(kind.partition(".")[2] for kind in kinds)):
        raise ConfigError(
            "--tta: the model does not support test-time augmentation",
            expected=" or ".join(kinds),
            found=cfg.model.type,
            remedy="omit --tta",
        )
    cfg.model.test_cfg = {**(cfg.model.get("test_cfg") or {}), "tta": kind}


# ---------------------------------------------------------------------------------- errors
_WORKER_ERROR = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.")


def unwrap_worker_error(error: HookError) -> HookError:
    """Return the error of a data-loader worker without PyTorch's copy of the traceback."""
    text = error.what
    if not _WORKER_ERROR.match(text):
        return error
    marker = f"{type(error).__module__}.{type(error).__name__}: "
    message = text.rpartition(marker)[2].rstrip()
    return type(error)(message) if message else error


@contextmanager
def worker_errors():
    """Convert errors of data-loader workers and tokenizers to errors without traceback."""
    try:
        yield
    except HookError as error:
        unwrapped = unwrap_worker_error(error)
        if unwrapped is error:
            raise
        raise unwrapped from None
    except ValueError as error:
        # Tokenizers do not use HOOK's errors; they raise ValueError for unsupported images.
        *_, (last, _) = traceback.walk_tb(error.__traceback__)
        if not last.f_globals.get("__name__", "").startswith("hook.tokenizers"):
            raise
        raise ConfigError(
            "the images do not fit the tokenizer",
            expected="image size and number of bands supported by model.backbone.tokenizer",
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
class _FitPositions(Hook):
    """Resamples learned positions of checkpoints to fine-tune."""

    def after_load_checkpoint(self, runner: "HookRunner", checkpoint: dict) -> None:
        """Change the loaded weights before they enter the model; see MMEngine."""
        if not runner._needs_every_weight:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            weights = get_state_dict(checkpoint)
            if fit_loaded_positions(model, weights, str(runner._load_from)):
                checkpoint["state_dict"] = weights


@RUNNERS.register_module()
class HookRunner(Runner):
    """MMEngine's runner with atomic checkpoints, strict loading and readable errors.

    - Checkpoints are written to a temporary file and renamed when complete.
    - Testing and resuming require all weights to match; with ``load_from`` of a training run
      (fine-tuning) some may differ, as in MMEngine, but not all.
    - Errors in a config raise :class:`hook.errors.ConfigError`.
    - A resumed run first runs the validation that the interruption prevented.
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
        """Register the config's hooks and :class:`ResumeValidationHook`."""
        from hook.engine.resume_hook import ResumeValidationHook

        with config_errors("default_hooks / custom_hooks"):
            super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(ResumeValidationHook())
        self.register_hook(_FitPositions())

    def train(self):
        """Train the model."""
        with worker_errors():
            return super().train()

    def val(self) -> dict:
        """Validate a checkpoint; all weights must match."""
        self._needs_every_weight = True
        with worker_errors():
            return super().val()

    def test(self) -> dict:
        """Test a checkpoint; all weights must match."""
        self._needs_every_weight = True
        with worker_errors():
            return super().test()

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Resume from a checkpoint; all weights must match."""
        self._needs_every_weight = True
        super().resume(filename, *args, **kwargs)
        self.message_hub.update_info("resumed_from", str(filename), resumed=False)

    def load_checkpoint(self, filename: str, *args, **kwargs) -> dict:
        """Load a checkpoint, and check that all or, for fine-tuning, some weights match.

        For fine-tuning, learned positions are resampled to the size of the images.
        """
        model = self.model.module if is_model_wrapper(self.model) else self.model
        checkpoint = CheckpointLoader.load_checkpoint(str(filename), map_location="cpu")
        if not self._needs_every_weight:
            check_some_weights(model, get_state_dict(checkpoint), filename)
        else:
            check_state_dict(model, get_state_dict(checkpoint), filename)
            if isinstance(self._test_loop, BaseLoop):  # built only for tests
                meta = getattr(self._test_loop.dataloader.dataset, "metainfo", {})
                if meta.get("classes"):
                    check_classes(model, checkpoint, meta["classes"], filename)
                warn_input_changes(model, checkpoint, meta, filename)
        return super().load_checkpoint(filename, *args, **kwargs)

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """Write a checkpoint to a temporary file, then rename it."""
        partial = f".{filename}.partial"
        super().save_checkpoint(out_dir, partial, *args, **kwargs)
        os.replace(os.path.join(out_dir, partial), os.path.join(out_dir, filename))


def build_runner(cfg: Config, kind: type[HookRunner] = HookRunner) -> Runner:
    """Build the runner of a config.

    Args:
        cfg: The config.
        kind: Runner class, unless the config sets ``runner_type``.

    Raises:
        ConfigError: If a part of the config cannot be built.
    """
    setup_environment()
    with config_errors("a part"):
        if "runner_type" in cfg:
            return RUNNERS.build(cfg)
        return kind.from_cfg(cfg)


# ---------------------------------------------------------------------------------- options
def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add OpenMMLab's common options of training and testing."""
    parser.add_argument("--work-dir", help="folder for logs and results")
    add_config_options(parser)
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="launcher of distributed runs",
    )
    # PyTorch's launchers use both spellings.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def prepare(args: argparse.Namespace, fixed: Sequence[str] = ()) -> Config:
    """Read the config of a command and apply the options of :func:`add_common_options`.

    Args:
        args: The arguments of the command.
        fixed: Further settings of the config that the command sets itself.

    Raises:
        ConfigError: If ``--cfg-options`` has a setting that an argument sets, or as
            :func:`hook.engine.configs.load_config`.
    """
    fixed = [*fixed, "launcher", *["work_dir"] * (args.work_dir is not None)]
    if twice := [key for key in fixed if key in (args.cfg_options or ())]:
        raise ConfigError(
            f"--cfg-options {twice[0]} has no effect",
            expected="settings that no argument of the command sets",
            found=", ".join(twice),
            remedy="use the argument instead (--help)",
        )
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    setup_environment()
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.config, args.work_dir)
    setup_distributed(cfg)
    return cfg
