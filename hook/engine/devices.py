"""Check devices before use, and parse several GPUs in one name."""

import os
import shlex
import shutil
import sys
from typing import TypeVar

import torch
from torch import Tensor, nn

from hook.arguments import bad_argument
from hook.errors import ConfigError

Movable = TypeVar("Movable", Tensor, nn.Module)


def to_device(part: Movable, device: str, name: str = "device") -> Movable:
    """Move a tensor or a module to a device, such as ``'cpu'`` or ``'cuda:1'``.

    Args:
        part: Tensor or module.
        device: The device.
        name: Name of the device in messages.

    Raises:
        ConfigError: If the device does not exist, or is out of memory.
    """
    try:
        return part.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"{name} {device} cannot be used",
            expected="cpu, or cuda if PyTorch finds a GPU",
            found=str(error).splitlines()[0],
            remedy="omit the device to run on the CPU",
        ) from None


def check_device(device: str, name: str = "device") -> None:
    """Raise :class:`~hook.errors.ConfigError` if a device does not exist."""
    to_device(torch.empty(0), device, name)


def list_devices(device: str) -> list[str]:
    """Return the names of one device or of several GPUs, such as ``"cuda:0,1"``.

    Raises:
        ConfigError: If it is not a string, or not a valid list of GPUs.
    """
    if not isinstance(device, str):
        raise bad_argument("device", device, "'cpu', 'cuda', 'cuda:1', or several GPUs: 'cuda:0,1'")
    kind, _, numbers = device.partition(":")
    if "," not in numbers:
        return [device]
    parts = [number.strip() for number in numbers.split(",")]
    if kind != "cuda" or not all(map(str.isdigit, parts)) or len(set(parts)) < len(parts):
        raise ConfigError(
            f"device {device!r}",
            expected="one device, or several GPUs such as cuda:0,1",
            found=device,
            remedy="list each GPU number once; to use several CPU processes, set "
            "cluster='local' (--cluster local --workers 2)",
        )
    return [f"{kind}:{part}" for part in parts]


def require_compiler() -> None:
    """Raise :class:`~hook.errors.ConfigError` if there is no C++ compiler."""
    # Same choice as in PyTorch's inductor.
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(shlex.split(compiler)[0]) is None:
        raise ConfigError(
            "--compile: torch.compile needs a C++ compiler",
            expected="g++, or the compiler in the environment variable CXX",
            found=f"no program {compiler}",
            remedy="install it (on Debian and Ubuntu: apt install g++), set CXX, or omit --compile",
        )
