"""Measure time and memory of a config's model, for the benchmark scripts.

A *step* is a forward pass, or with ``mode='train'`` forward pass, loss, backward pass and AdamW.
Peak memory is measured in a new process, above the built and warmed-up model: on a GPU from the
allocator, on a CPU as resident memory, which includes buffers of libraries and allocator overhead.
"""

import argparse
import ctypes
import gc
import itertools
import json
import multiprocessing
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import mmengine
import timm
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from torch import nn

from hook.engine.configs import add_config_options, load_config, make_folder, setup_environment
from hook.engine.devices import check_device, require_compiler
from hook.engine.models import (
    build_model,
    default_window,
    get_num_bands,
    get_num_classes,
    is_segmentation,
)
from hook.errors import ConfigError, HookError
from hook.geo.staging import atomic_write, check_output
from hook.registry import TOKENIZERS
from hook.structures import ClsDataSample

_POLL_SECONDS = 0.05


class StepStopped(ConfigError):
    """A step exceeds a limit of time or memory, named by ``limit``."""

    limit = "time"


class OutOfMemory(StepStopped):
    """A step exceeds the available memory or its limit."""

    limit = "memory"


@dataclass(frozen=True)
class StepSettings:
    """Settings of steps, equal for all configs of a comparison.

    Attributes:
        mode: ``'forward'`` or ``'train'``.
        batch_size: Images per step.
        shape: Height and width in pixels; None uses each model's default.
        device: ``'cpu'`` or ``'cuda'``.
        amp: Autocast to bfloat16.
        channels_last: Use channels-last memory format for weights and images.
        compile: Use ``torch.compile``.
        threads: CPU threads; None uses PyTorch's default.
        warmup: Steps before measuring.
        options: Dotted keys and values to override in each config.
    """

    mode: str = "forward"
    batch_size: int = 1
    shape: tuple[int, int] | None = None
    device: str = "cpu"
    amp: bool = False
    channels_last: bool = False
    compile: bool = False
    threads: int | None = None
    warmup: int = 2
    options: dict[str, Any] | None = None

    @property
    def precision(self) -> str:
        """Name of the number format."""
        return "bfloat16 autocast" if self.amp else "float32"

    @property
    def memory_format(self) -> str:
        """Name of the memory format."""
        return "channels last" if self.channels_last else "contiguous"

    def describe(self) -> str:
        """Return the settings in one line."""
        compiled = ", compiled" if self.compile else ""
        return (
            f"{self.mode}, batch {self.batch_size}, {self.precision}, {self.memory_format}"
            f"{compiled}, on {device_name(self.device)}"
        )


@dataclass(frozen=True)
class Measurement:
    """Measurement of one config in a new process.

    Attributes:
        shape: (B, C, H, W) of the batch.
        seconds: Duration of each timed step.
        peak_memory: Bytes above the built model; None if the system does not report it.
    """

    shape: tuple[int, ...]
    seconds: tuple[float, ...]
    peak_memory: int | None


# ---------------------------------------------------------------------------------- options
def add_step_options(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Add the options of :class:`StepSettings`, and ``--repeats`` with the given default."""
    parser.add_argument("--batch-size", type=int, default=1, help="images per step (default 1)")
    parser.add_argument(
        "--mode",
        choices=["forward", "train"],
        default="forward",
        help="forward pass (default), or training step: forward, loss, backward, AdamW",
    )
    parser.add_argument(
        "--repeats", type=int, default=repeats, help=f"timed steps of each (default {repeats})"
    )
    parser.add_argument("--warmup", type=int, default=2, help="steps before timing (default 2)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument(
        "--channels-last", action="store_true", help="use channels-last memory format"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="use torch.compile (requires a C++ compiler)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to a JSON file")
    add_config_options(parser)


def read_step_settings(
    args: argparse.Namespace, parser: argparse.ArgumentParser, shape: Sequence[int] | None = None
) -> StepSettings:
    """Return the settings from options of :func:`add_step_options`.

    Args:
        args: Parsed options.
        parser: Parser that reports invalid options.
        shape: Height and width in pixels, or one side; None for each model's default.
    """
    for name, minimum in (("batch_size", 1), ("repeats", 1), ("threads", 1), ("warmup", 1)):
        if getattr(args, name) is not None and getattr(args, name) < minimum:
            parser.error(f"--{name.replace('_', '-')} must be at least {minimum}")
    if shape is not None and (len(shape) > 2 or min(shape) < 1):
        parser.error("--shape takes one side, or height and width, in pixels")
    return StepSettings(
        mode=args.mode,
        batch_size=args.batch_size,
        shape=None if shape is None else (shape[0], shape[-1]),
        device=args.device,
        amp=args.amp,
        channels_last=args.channels_last,
        compile=args.compile,
        threads=args.threads,
        warmup=args.warmup,
        options=args.cfg_options,
    )


def prepare(settings: StepSettings) -> None:
    """Set the threads of this process, and check device and compiler.

    Raises:
        ConfigError: If the device, or the compiler for ``compile``, does not exist.
    """
    setup_environment()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    check_device(settings.device, "--device")
    if settings.compile:
        require_compiler()


def prepare_output(args: argparse.Namespace, *names: str) -> None:
    """Create the folders of a tool's result files before measuring.

    Args:
        args: Arguments of the tool; all others may name inputs, and no input is overwritten.
        names: Those that name result files, or None.

    Raises:
        ConfigError: A file cannot be written there, or is an input.
    """
    inputs = [value for name, value in vars(args).items() if name not in names]
    while any(isinstance(value, list | tuple) for value in inputs):
        parts = [value if isinstance(value, list | tuple) else [value] for value in inputs]
        inputs = list(itertools.chain(*parts))
    for name in names:
        path = getattr(args, name)
        if path is None:
            continue
        make_folder(Path(path).absolute().parent, f"--{name}")
        if os.path.isdir(path):
            raise ConfigError(
                f"--{name} {path} is a folder",
                expected="a file name",
                remedy="name a file in that folder",
            )
        check_output(path, inputs, ConfigError)
        end = {"json": ".json", "out": ".png"}.get(name)
        if end is not None and Path(path).suffix.lower() != end:
            raise ConfigError(
                f"--{name} {path}: unknown format",
                expected=f"a name ending in {end}",
                remedy=f"choose a name ending in {end}",
            )


def write_json(path: str | os.PathLike | None, report: dict[str, Any]) -> None:
    """Write a report if ``path`` is set."""
    if path is not None:
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n")


# ---------------------------------------------------------------------------------- machine
def relative_path(path: str) -> str:
    """Return a path without absolute folders: relative, or the name only."""
    if not os.path.isabs(path):
        return path
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return Path(path).name


def command_line(arguments: Sequence[str]) -> str:
    """Return the command line ``python ...`` of arguments like ``sys.argv``, no absolute paths."""
    shown = []
    for argument in arguments:
        head, sign, value = argument.rpartition("=")
        shown.append(head + sign + relative_path(value) if sign else relative_path(argument))
    return shlex.join(["python", *shown])


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the CPU with the number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {_threads()}"


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread" if count == 1 else f"{count} threads"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def report_head(settings: StepSettings, repeats: int) -> dict[str, Any]:
    """Return command line, machine, versions and settings, without host name and absolute paths."""
    on_gpu = torch.device(settings.device).type == "cuda"
    return {
        "command": command_line(sys.argv),
        "machine": {
            "cpu": _cpu_model(),
            "gpu": device_name(settings.device) if on_gpu else None,
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "mmengine": mmengine.__version__,
        },
        "mode": settings.mode,
        "device": device_name(settings.device) if on_gpu else f"cpu, {_threads()}",
        "precision": settings.precision,
        "memory_format": settings.memory_format,
        "compiled": settings.compile,
        "batch_size": settings.batch_size,
        "repeats": repeats,
    }


def print_head(report: dict[str, Any], settings: StepSettings) -> None:
    """Print command, settings and versions of :func:`report_head`."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "timm"))
    print(report["command"])
    print(f"{settings.describe()}, {report['repeats']} repeats")
    print(f"{versions}, mmengine {machine['mmengine']}")


# ---------------------------------------------------------------------------------- steps
def fit_to_side(cfg: Config, side: int) -> None:
    """Change a config in place so that its model is built for square images.

    Sets the tokenizer's ``img_size`` if it has this option, scales ``dense_size`` of the backbone,
    a grid on the image, and sets the size in the data preprocessor.

    Args:
        cfg: The config.
        side: Side of the images in pixels.
    """
    backbone = cfg.model.get("backbone") or {}
    tokenizer = backbone.get("tokenizer")
    if tokenizer is not None:
        kind = tokenizer.get("type")
        kind = TOKENIZERS.get(kind) if isinstance(kind, str) else kind
        default = signature(kind).parameters.get("img_size") if kind is not None else None
        before = tokenizer.get("img_size", None if default is None else default.default)
        if default is not None or "img_size" in tokenizer:
            tokenizer["img_size"] = side
        dense = backbone.get("dense_size")
        if dense is not None and isinstance(before, (int, list, tuple)):
            heights = before if isinstance(before, int) else before[0]
            widths = before if isinstance(before, int) else before[1]
            rows, columns = (dense, dense) if isinstance(dense, int) else dense
            backbone["dense_size"] = (
                max(1, round(rows * side / heights)),
                max(1, round(columns * side / widths)),
            )
    for preprocessor in (cfg.model.get("data_preprocessor"), cfg.get("data_preprocessor")):
        if preprocessor and preprocessor.get("size") is not None:
            preprocessor["size"] = (side, side)


def image_side(cfg: Config, model: nn.Module) -> int:
    """Return the side of a model's images in pixels, for a model of any size that of its data."""
    if not hasattr(getattr(model.backbone, "tokenizer", None), "img_size"):
        for part in ("test", "val", "train"):
            data = (cfg.get(f"{part}_dataloader") or {}).get("dataset") or {}
            if isinstance(data.get("chip_size"), int):
                return data["chip_size"]
    return default_window(model)


class Step:
    """A config's model and a seeded batch, to be run repeatedly.

    Args:
        config: Config file.
        settings: Settings of the step.
        side: Build the model for square images of this side in pixels, see :func:`fit_to_side`;
            None uses the sizes of the config.

    Raises:
        ConfigError: If the config cannot be built.
    """

    def __init__(self, config: str, settings: StepSettings, side: int | None = None) -> None:
        torch.manual_seed(0)
        self.settings = settings
        self.device = torch.device(settings.device)
        self.train = settings.mode == "train"
        cfg = load_config(config, settings.options)
        if side is not None:
            fit_to_side(cfg, side)
        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = build_model(cfg).to(self.device).to(memory_format=memory_format)
        self.model.train(self.train)
        if side is not None:
            height = width = side
        elif settings.shape is not None:
            height, width = settings.shape
        else:
            height = width = image_side(cfg, self.model)
        bands = get_num_bands(self.model) or 3
        inputs = torch.randn(settings.batch_size, bands, height, width, device=self.device)
        self.inputs = inputs.to(memory_format=memory_format)
        self.samples = self._random_labels(height, width)
        self.autocast = (
            torch.autocast(self.device.type, torch.bfloat16) if settings.amp else nullcontext()
        )
        if settings.compile:
            from torch._dynamo import config as dynamo

            # Models share code objects: beyond the limit PyTorch would run the others uncompiled,
            # and with dynamic shapes later models would get slower code than the first.
            dynamo.recompile_limit = 64
            dynamo.fail_on_recompile_limit_hit = True
            self.model.compile(dynamic=False)
        self.reset_optimizer()

    def _random_labels(self, height: int, width: int) -> list:
        count = get_num_classes(self.model)
        if not is_segmentation(self.model):
            labels = torch.randint(count, (len(self.inputs),)).tolist()
            return [ClsDataSample(gt_label=label) for label in labels]
        from mmseg.structures import SegDataSample

        samples = []
        for _ in self.inputs:
            labels = torch.randint(count, (1, height, width), device=self.device)
            size = {"img_shape": (height, width), "ori_shape": (height, width)}
            samples.append(SegDataSample(metainfo=size, gt_sem_seg=PixelData(data=labels)))
        return samples

    def reset_optimizer(self) -> None:
        """Delete gradients and optimizer state."""
        if self.train:
            self.model.zero_grad(set_to_none=True)
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)

    def loss(self) -> torch.Tensor:
        """Run the forward pass and return the loss."""
        with self.autocast:
            losses = self.model(self.inputs, self.samples, mode="loss")
        return self.model.parse_losses(losses)[0]

    def __call__(self) -> None:
        """Run one step.

        Raises:
            ConfigError: If the model does not support the images, or cannot be compiled.
            OutOfMemory: If there is not enough memory.
        """
        try:
            if self.train:
                self.optimizer.zero_grad(set_to_none=True)
                self.loss().backward()
                self.optimizer.step()
            else:
                with torch.inference_mode(), self.autocast:
                    self.model(self.inputs, mode="tensor")
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except HookError:
            raise
        except ValueError as error:
            raise ConfigError(
                "the model does not support these images",
                expected="images of the model's size and band count",
                found=error,
                remedy="choose a different size, or change the model with --cfg-options",
            ) from None
        except (RuntimeError, MemoryError) as error:
            if _is_out_of_memory(error):
                raise OutOfMemory(
                    "a step needs more memory than available",
                    found=str(error).partition("\n")[0],
                    remedy="use smaller or fewer images",
                ) from None
            if self.settings.compile and _is_compiler_error(error):
                raise ConfigError(
                    "--compile: torch.compile cannot compile the model",
                    found=str(error).partition("\n")[0],
                    remedy="omit --compile; TORCH_LOGS=dynamo,inductor prints details",
                ) from error
            raise

    def seconds(self) -> float:
        """Time one step."""
        start = time.perf_counter()
        self()
        return time.perf_counter() - start

    def saved_bytes(self) -> int:
        """Return the bytes autograd saves for the backward pass, each storage once, no weights.

        Copies of weights in a different number format, made by autocast, are included.
        """
        weights = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()
        total = sum(storages.values())
        del loss
        return total


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or "allocate memory" in text
        or "not enough memory" in text
    )


def _is_compiler_error(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


# ---------------------------------------------------------------------------------- memory
def _memory_status(field: str, process: int | str = "self") -> int:
    """Read VmRSS (current) or VmHWM (peak) of a process in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{process}/status has no {field}")


def _peak_memory(step: Step) -> int | None:
    """Measure the peak of two steps above the built model, in bytes."""
    # Caches of the first steps are not counted; memory they left in the allocators must be returned
    # to the system, or the measured steps would reuse it.
    step.reset_optimizer()
    gc.collect()
    if step.device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(step.device)
        torch.cuda.reset_peak_memory_stats(step.device)
        for _ in range(2):
            step()
        return torch.cuda.max_memory_allocated(step.device) - before
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _memory_status("VmRSS")
        for _ in range(2):
            step()
        return max(0, _memory_status("VmHWM") - before)
    except OSError:  # not Linux
        return None


def _work(connection, config, settings, side, repeats, max_memory) -> None:
    """Measure in a new process; report each step and finally the result to the parent."""
    try:
        prepare(settings)
        step = Step(config, settings, side)
        if max_memory is not None and torch.device(settings.device).type == "cuda":
            total = torch.cuda.get_device_properties(settings.device).total_memory
            limit = max_memory + torch.cuda.memory_allocated(settings.device)
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
        connection.send("built")
        for _ in range(settings.warmup):
            step()
            connection.send("warm")
        peak = _peak_memory(step)
        connection.send("step")
        seconds = []
        for _ in range(repeats):
            seconds.append(step.seconds())
            connection.send("step")
        connection.send(Measurement(tuple(step.inputs.shape), tuple(seconds), peak))
    except HookError as error:
        connection.send(error)


def measure(
    config: str,
    settings: StepSettings,
    *,
    side: int | None = None,
    repeats: int = 0,
    max_seconds: float | None = None,
    max_memory: float | None = None,
) -> Measurement:
    """Measure the peak memory and the time of a config's step in a new process.

    Args:
        config: Config file.
        settings: Settings of the step.
        side: Build the model for square images of this side in pixels; None as in the config.
        repeats: Steps to time.
        max_seconds: Maximum duration of a step, except for first steps that compile.
        max_memory: Maximum bytes above the built model.

    Raises:
        StepStopped: If a limit was exceeded (:class:`OutOfMemory` for memory), or the system killed
            the process for memory.
        ConfigError: If the config cannot be built, or the model does not support the images.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(sender, config, settings, side, repeats, max_memory), daemon=True
    )
    process.start()
    sender.close()  # so that the pipe ends with the process
    watches_memory = max_memory is not None and torch.device(settings.device).type == "cpu"
    deadline = built = None
    try:
        while True:
            if receiver.poll(_POLL_SECONDS):
                message = receiver.recv()
                if isinstance(message, HookError):
                    raise message
                if isinstance(message, Measurement):
                    return message
                if message == "built":
                    built = _resident(process.pid)
                if max_seconds is not None and not (settings.compile and message == "built"):
                    # The memory is measured over two steps.
                    steps = 2 if message == "warm" else 1
                    deadline = time.monotonic() + steps * max_seconds
            elif deadline is not None and time.monotonic() > deadline:
                raise StepStopped(f"a step lasts more than {max_seconds:g} s")
            if watches_memory and built and _resident(process.pid) - built > max_memory:
                raise OutOfMemory(f"a step takes more than {max_memory / 2**30:.2g} GiB")
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:
            raise OutOfMemory("the system killed the process, probably out of memory") from None
        raise ConfigError(
            f"{relative_path(config)} cannot be measured",
            found=f"its process ended with status {process.exitcode}",
            remedy="its traceback is above",
        ) from None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _resident(process: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended or is unknown."""
    try:
        return _memory_status("VmRSS", process)
    except OSError:
        return 0


def available_memory() -> int | None:
    """Return the memory available to new processes in bytes; None if unknown."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
