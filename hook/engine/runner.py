"""Set up runs of ``tools/train.py`` and ``tools/test.py``."""

import argparse
import atexit
import ctypes
import functools
import gc
import io
import logging
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, is_distributed, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import convert_sync_batchnorm, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import RUNNERS
from mmengine.runner import (
    BaseLoop,
    CheckpointLoader,
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    Runner,
)
from torch.utils.data import DataLoader

from hook.checkpoint import (
    check_classes,
    check_some_weights,
    check_state_dict,
    find_resumable,
    get_state_dict,
    load_checkpoint,
    warn_input_changes,
)
from hook.datasets.seeding import random_state, seed_draws
from hook.engine.checkpoint_hook import SoundCheckpointHook
from hook.engine.configs import (
    add_config_options,
    as_list,
    config_errors,
    load_config,
    make_folder,
    setup_environment,
)
from hook.engine.models import fit_loaded_weights, upgrade_model
from hook.engine.optim import CPUAmpOptimWrapper, upgrade_constructor
from hook.engine.parallel import ReplicatedModel
from hook.engine.resuming import (
    OF_OPTIMIZATION,
    ResumeHook,
    changed_settings,
    check_resumable,
    follow_schedule,
    hyperparameters,
)
from hook.errors import ConfigError, HookError, cannot_write, interruption, of_system
from hook.geo.staging import check_output

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


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


@config_errors("optim_wrapper")
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
    parts = [one for one in wrapper.values() if isinstance(one, dict) and "optimizer" in one]
    for one in parts or [wrapper]:
        _set_amp(one, asked)


def _set_amp(wrapper: dict, asked: bool) -> None:
    """Set one optimizer wrapper for mixed precision."""
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
    emulated = _emulates_bfloat16()
    if asked:
        precision = "bfloat16 autocast"
        if emulated:
            precision += ", which this CPU emulates, many times slower than without --amp"
    else:
        precision = "float32" + ("" if emulated else " (use --amp for bfloat16 autocast)")
    print_log(f"No GPU: training runs in {precision}.", "current", logging.WARNING)


def _emulates_bfloat16() -> bool:
    """Return whether the CPU is known to have no instructions for bfloat16.

    On an AMD EPYC with AVX2 a 3x3 convolution and its gradients take 6 to 20 times as long in it.
    """
    facts = getattr(torch.cpu, "get_capabilities", dict)()  # not in older PyTorch
    known = facts.get("architecture") == "x86_64"
    return known and not any(facts.get(name) for name in ("avx512_bf16", "amx_bf16"))


@config_errors("auto_scale_lr")
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
        path = Path(resume)
    checkpoint = load_checkpoint(path)  # fails before the data are read
    randomness = cfg.get("randomness") or {}
    if randomness.get("seed") is None:  # the run drew one, which orders its samples
        seed = (checkpoint.get("meta") or {}).get("seed")
        cfg.randomness = dict(randomness, seed=seed)
    cfg.resume = True
    cfg.load_from = str(path)


@config_errors("test_evaluator")
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


@config_errors("visualizer")
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


@config_errors("tta_pipeline")
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
class _FitWeights(Hook):
    """Fits positions and bands of checkpoints to fine-tune."""

    def after_load_checkpoint(self, runner: "HookRunner", checkpoint: dict) -> None:
        """Change the loaded weights before they enter the model; see MMEngine."""
        if not runner._needs_every_weight:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            weights = get_state_dict(checkpoint)
            data = getattr(getattr(runner._train_loop, "dataloader", None), "dataset", None)
            bands = [
                (meta or {}).get("bands")
                for meta in (
                    checkpoint.get("meta", {}).get("dataset_meta"),
                    getattr(data, "metainfo", None),
                )
            ]
            if fit_loaded_weights(model, weights, str(runner._load_from), *bands):
                checkpoint["state_dict"] = weights


class _StartAverages(Hook):
    """Lets moving averages of weights start from those that a training starts from.

    MMEngine copies the model before its weights are initialised.
    """

    def before_train(self, runner: "HookRunner") -> None:
        """Copy the weights, unless the run was resumed."""
        for hook in runner.hooks if runner.iter == 0 else ():
            if isinstance(hook, EMAHook):
                hook.ema_model.module.load_state_dict(hook.src_model.state_dict())


@RUNNERS.register_module()
class HookRunner(Runner):
    """MMEngine's runner with atomic checkpoints, strict loading and readable errors.

    - Checkpoints are written to a temporary file and renamed when complete.
    - Testing and resuming require all weights to match; with ``load_from`` of a training run
      (fine-tuning) some may differ, as in MMEngine, but not all.
    - Errors in a config raise :class:`hook.errors.ConfigError`.
    - Random draws of the data differ between epochs, workers and processes, and depend on the
      seed alone (:func:`hook.datasets.seeding.seed_draws`).
    - A resumed run equals the unbroken one, or the log says what differs
      (:class:`hook.engine.resuming.ResumeHook`). Where the config changed, the config holds.
    """

    build_val_loop = _reports("val_dataloader / val_evaluator", Runner.build_val_loop)
    build_test_loop = _reports("test_dataloader / test_evaluator", Runner.build_test_loop)
    build_param_scheduler = _reports("param_scheduler", Runner.build_param_scheduler)
    build_visualizer = _reports("visualizer", Runner.build_visualizer)
    build_log_processor = _reports("log_processor", Runner.build_log_processor)

    def __init__(self, *args, **kwargs) -> None:
        self._needs_every_weight = self._resuming = False
        self._checkpoint: dict = {}  # while it is resumed from
        self.random_states: list[dict] = []  # of all processes, as in the last checkpoint
        self.resume_notes: list[str] = []  # how a resumed run differs from an unbroken one
        super().__init__(*args, **kwargs)

    def build_model(self, model) -> torch.nn.Module:
        """Build the model; see :func:`upgrade_model`."""
        with config_errors("model"):
            return super().build_model(upgrade_model(model))

    def wrap_model(self, model_wrapper_cfg: dict | None, model: torch.nn.Module):
        """Wrap the model for several processes, unless it averages gradients itself."""
        if not self.distributed or not getattr(model, "averages_gradients", False):
            return super().wrap_model(model_wrapper_cfg, model)
        model = model.to(get_device())
        if self.cfg.get("sync_bn") is not None:
            model = convert_sync_batchnorm(model, self.cfg.sync_bn)
        return ReplicatedModel(model)

    def build_optim_wrapper(self, optim_wrapper) -> OptimWrapper | OptimWrapperDict:
        """Build the optimizer; see :func:`hook.engine.optim.upgrade_constructor`."""
        model = self.model.module if is_model_wrapper(self.model) else self.model
        with config_errors("optim_wrapper"):
            return super().build_optim_wrapper(upgrade_constructor(optim_wrapper, model))

    def build_train_loop(self, loop) -> BaseLoop:
        """Build the training loop, with seeded draws.

        Raises:
            ConfigError: If the loop would make no step.
        """
        with config_errors("train_dataloader / train_cfg"):
            if isinstance(loop, dict) and isinstance(self._train_dataloader, dict):
                self._train_dataloader = seed_draws(self._train_dataloader, self.seed)
            built = super().build_train_loop(loop)
        loader = built.dataloader
        is_endless = isinstance(built, IterBasedTrainLoop) and hasattr(loader.sampler, "skip")
        if isinstance(loader.dataset, Sized) and 0 in (
            len(loader.dataset),
            1 if is_endless else len(loader),
        ):
            raise ConfigError(
                "train_dataloader has no batch: the training would make no step",
                expected=f"at least {loader.batch_size} images per process with drop_last"
                if loader.drop_last
                else "at least one image",
                found=f"{len(loader.dataset)} images in batches of {loader.batch_size}"
                f" on {self.world_size} process(es)",
                remedy="add images, lower batch_size, or set drop_last=False",
            )
        if getattr(built, "max_iters", 1) < 1:
            raise ConfigError(
                "train_cfg: the training would make no step",
                expected="max_epochs or max_iters of at least 1",
                found=loop,
                remedy="correct train_cfg",
            )
        return built

    @staticmethod
    def build_dataloader(dataloader, *args, **kwargs) -> DataLoader:
        """Build a data loader whose workers draw nothing from the process's random state.

        Else a resumed run, which starts them once more, would draw different numbers.
        """
        loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        if loader.num_workers and loader.generator is None:
            loader.generator = torch.Generator().manual_seed(kwargs.get("seed") or 0)
        return loader

    def register_hooks(self, default_hooks=None, custom_hooks=None) -> None:
        """Register the config's hooks, :class:`SoundCheckpointHook` and :class:`ResumeHook`."""
        default_hooks = {"checkpoint": dict(type="CheckpointHook"), **(default_hooks or {})}
        default_hooks["checkpoint"] = _sound(default_hooks["checkpoint"])
        with config_errors("default_hooks / custom_hooks"):
            super().register_hooks(default_hooks, [_sound(hook) for hook in as_list(custom_hooks)])
        self.register_hook(ResumeHook())
        self.register_hook(_FitWeights())
        self.register_hook(_StartAverages())

    def train(self):
        """Train the model; an interruption says which checkpoint is kept."""
        keep_freed_memory()
        try:
            with self._errors(), self._ending_workers():
                return super().train()
        except BaseException as error:
            if (interrupted := interruption(error)) is None:
                raise
            if kept := find_resumable(self.work_dir):
                interrupted.add_note(f"{kept} is kept; continue with --resume")
            raise interrupted from None

    def val(self) -> dict:
        """Validate a checkpoint; all weights must match."""
        self._needs_every_weight = True
        with self._errors(), self._ending_workers():
            return super().val()

    def test(self) -> dict:
        """Test a checkpoint; all weights must match."""
        self._needs_every_weight = True
        with self._errors(), self._ending_workers():
            return super().test()

    @contextmanager
    def _ending_workers(self) -> Iterator[None]:
        """End data-loader workers; the garbage collector would wait 5 s for each."""
        try:
            yield
        finally:
            for loop in (self._train_loop, self._val_loop, self._test_loop):
                owners = getattr(loop, "dataloader_iterator", None), getattr(loop, "dataloader", 0)
                for owner in owners:
                    iterator = getattr(owner, "_iterator", None)
                    if hasattr(iterator, "_shutdown_workers"):
                        iterator._shutdown_workers()
                        owner._iterator = None

    @contextmanager
    def _errors(self):
        """Convert errors of data-loader workers, and of parts of the config that fail in use.

        MMEngine builds hooks, losses and transforms with values of any type. Errors in code that is
        not installed, such as a user's own data set, keep their traceback.
        """
        try:
            with worker_errors():
                yield
        except HookError:
            raise
        except Exception as error:
            files = [f.f_code.co_filename for f, _ in traceback.walk_tb(error.__traceback__)]
            if interruption(error) or of_system(error) or not all(map(_is_installed, files)):
                raise
            log = Path(self.log_dir) / f"{self.timestamp}.log"
            with log.open("a") as sink:
                traceback.print_exc(file=sink)
            *_, (place, line) = traceback.walk_tb(error.__traceback__)
            raise ConfigError(
                "a part of the config fails in use",
                expected="values that the parts of the config can use",
                found=f"{type(error).__name__}: {error} ({place.f_code.co_qualname}, line {line})",
                remedy=f"correct the config; {log} has the traceback",
            ) from error

    def resume(self, filename: str, resume_optimizer: bool = True, **kwargs) -> None:
        """Resume from a checkpoint; all weights must match, and the config's schedule holds.

        Raises:
            CheckpointError: If the checkpoint does not hold the state of such a training.
            ConfigError: If the training data have its classes in another order.
        """
        self._needs_every_weight = self._resuming = True
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        configured = hyperparameters(self)
        kwargs["resume_param_scheduler"] = False
        super().resume(filename, resume_optimizer, **kwargs)
        self._resuming = False
        self.message_hub.update_info("resumed_from", str(filename), resumed=False)
        checkpoint, self._checkpoint = self._checkpoint, {}
        self.random_states = checkpoint.get("random_state", [])
        changes = changed_settings(checkpoint["meta"].get("cfg", ""), self.cfg.pretty_text)
        if changes and changes.get("randomness.seed", ("",))[0] in ("None", "not set"):
            del changes["randomness.seed"]  # the seed that the interrupted run drew
        if changes is None:
            self.resume_notes.append("the checkpoint's config cannot be compared with this one")
        self.resume_notes += [f"{k}: {old} -> {new}" for k, (old, new) in (changes or {}).items()]
        loop, saved_iter = self.train_loop, self.iter
        if isinstance(loop, EpochBasedTrainLoop):
            loop._iter = loop.epoch * len(loop.dataloader)
            if loop.iter != saved_iter:
                self.resume_notes.append(
                    f"goes on at the start of epoch {loop.epoch + 1}, iteration {loop.iter}: "
                    f"iteration {saved_iter} of the checkpoint is not at the end of an epoch of "
                    f"{len(loop.dataloader)} iterations"
                )
        changed = (
            changes is None
            or loop.iter != saved_iter
            or any(key.startswith(OF_OPTIMIZATION) for key in changes)
            or len(self.random_states) not in (0, self.world_size)
        )
        self.resume_notes += follow_schedule(
            self, configured, checkpoint.get("param_schedulers"), changed
        )

    def load_checkpoint(self, filename: str, *args, **kwargs) -> dict:
        """Load a checkpoint, and check that all or, for fine-tuning, some weights match.

        For fine-tuning, learned positions are resampled to the size of the images, and the first
        layer is fitted to their bands.
        """
        model = self.model.module if is_model_wrapper(self.model) else self.model
        checkpoint = CheckpointLoader.load_checkpoint(
            str(filename), map_location="cpu", logger="current"
        )
        if not self._needs_every_weight:
            check_some_weights(model, get_state_dict(checkpoint), filename)
        else:
            check_state_dict(model, get_state_dict(checkpoint), filename)
            if isinstance(self._test_loop, BaseLoop):  # built only for tests
                meta = getattr(self._test_loop.dataloader.dataset, "metainfo", {})
                if meta.get("classes"):
                    check_classes(model, checkpoint, meta["classes"], filename)
                warn_input_changes(model, checkpoint, meta, filename)
        if self._resuming:
            check_resumable(self, checkpoint, filename)
        with redirect_stdout(io.StringIO()) as said:  # MMEngine prints, where a log is meant
            checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        if text := said.getvalue().strip():
            print_log(text, "current")
        if self._resuming:
            if self._randomness_cfg.get("seed") is not None:
                checkpoint["meta"].pop("seed", None)  # the config's seed holds
            self._checkpoint = checkpoint
        return checkpoint

    def dump_config(self) -> None:
        """Copy the config to the work dir, unless it is already there.

        Raises:
            ConfigError: It would replace a config that it is based on.
        """
        name = self.cfg.filename
        if name is None or Path(name).resolve().parent != Path(self.work_dir).resolve():
            if name is not None:
                check_output(Path(self.work_dir, Path(name).name), [name], ConfigError)
            super().dump_config()

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """Write a checkpoint to a temporary file, then rename it.

        All processes have to call it: each adds its random state.
        """
        self.random_states = all_gather_object(random_state())
        if not is_main_process():
            return
        partial = Path(out_dir, f".{filename}.partial")
        try:
            super().save_checkpoint(out_dir, partial.name, *args, **kwargs)
            os.replace(partial, Path(out_dir, filename))
        except OSError as problem:
            error = cannot_write(Path(out_dir, filename), problem, HookError)
            error.remedy += ", then resume: the checkpoints before it are complete"
            raise error from problem
        finally:
            partial.unlink(missing_ok=True)


def _is_installed(file: str) -> bool:
    """Whether a file of code belongs to Python, an installed package, or HOOK."""
    places = (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), Path(__file__).parents[1])
    return file.startswith("<") or any(Path(file).is_relative_to(place) for place in places)


def _sound(hook):
    """Return the config of a hook, with :class:`SoundCheckpointHook` for MMEngine's."""
    kinds = ("CheckpointHook", "mmengine.CheckpointHook", CheckpointHook)
    if isinstance(hook, dict) and hook.get("type") in kinds:
        return {**hook, "type": SoundCheckpointHook}
    return hook


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
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else kind.from_cfg(cfg)
    if is_distributed():
        atexit.register(_leave_processes)
    return runner


def keep_freed_memory() -> None:
    """Let glibc's malloc use memory of freed tensors again, where it returns it to the system.

    The system clears each page that it gives, which takes up to a third of a step on a CPU. Arrays
    of 1 GiB and more are still returned at once. Variables of the environment for malloc come
    first.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**30)


def _leave_processes() -> None:
    """End the process group and its threads, which may abort a process that ends before them.

    The threads of gloo release tensors, and a thread that has to wait for Python while it ends is
    unwound through destructors: ``terminate called without an active exception``. They end with the
    last reference to the group, which model wrappers hold too.
    """
    if is_distributed():
        group = torch.distributed.group.WORLD
        torch.distributed.destroy_process_group()
        gc.collect()
        del group  # last: this reference lets go of Python while it waits for the threads


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
