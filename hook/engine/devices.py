"""Devices: checked before use, and several GPUs in one name."""

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
    """Move a tensor or a module to a device.

    Args:
        part: What to move.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``.
        name: What the message calls it.

    Raises:
        ConfigError: There is no such device, or it is full.
    """
    try:
        return part.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"{name} {device} cannot be used",
            expected="cpu, or cuda where PyTorch finds a GPU",
            found=str(error).splitlines()[0],
            remedy="leave the device out to run on the CPU",
        ) from None


def check_device(device: str, name: str = "device") -> None:
    """Refuse a device that is not there.

    Raises:
        ConfigError: It is not.
    """
    to_device(torch.empty(0), device, name)


def list_devices(device: str) -> list[str]:
    """Read ``"cuda:0,1"`` as two devices.

    Args:
        device: One device, or several GPUs.

    Returns:
        Each device's name.

    Raises:
        ConfigError: It is not a string, or names several of what there is one of.
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
            remedy="give each GPU's number once; processes of the CPU share a scene with "
            "cluster='local' (--cluster local --workers 2)",
        )
    return [f"{kind}:{part}" for part in parts]


def require_compiler() -> None:
    """Refuse to compile where there is no C++ compiler.

    Raises:
        ConfigError: There is none.
    """
    # The same choice as PyTorch's inductor makes.
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(shlex.split(compiler)[0]) is None:
        raise ConfigError(
            "--compile: torch.compile needs a C++ compiler",
            expected="g++, or the compiler that the environment variable CXX names",
            found=f"no program {compiler}",
            remedy="install it (on Debian and Ubuntu: apt install g++), set CXX, or leave "
            "--compile out",
        )
