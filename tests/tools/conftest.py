"""The commands of the repository, and the outputs of a short training and test."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hook.datasets.named import EuroSATRGB


class Tools:
    """Runs commands of the repository, each in a fresh process."""

    def __init__(self, repo: Path, tiny) -> None:
        self.repo, self.tiny = repo, tiny

    def _environment(self) -> dict[str, str]:
        paths = [str(self.repo), str(self.repo / "tests" / "data")]
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "NO_ALBUMENTATIONS_UPDATE": "1",
        }

    def run(self, *command, check: bool = True, timeout: int = 600) -> subprocess.CompletedProcess:
        """Run ``python tools/...`` or a ``tools/*.sh`` script."""
        command = [str(part) for part in command]
        start = ["bash"] if command[0].endswith(".sh") else [sys.executable]
        done = subprocess.run(
            [*start, *command],
            cwd=self.repo,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check:
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    def run_pair(self, script: str, *arguments) -> subprocess.CompletedProcess:
        """Run a ``tools/dist_*.sh`` script with two processes on a free port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ["PORT"] = str(port)
        try:
            return self.run(script, *arguments)
        finally:
            del os.environ["PORT"]


@pytest.fixture(scope="session")
def eurosat_tiles(tmp_path_factory) -> Path:
    """EuroSAT's layout with random tiles: three of each class for training, two for the test."""
    folder, drawn = tmp_path_factory.mktemp("eurosat"), np.random.default_rng(0)
    lists = {"train": [], "test": []}
    for level, name in enumerate(EuroSATRGB.class_names):
        (folder / name).mkdir()
        for number in range(5):
            tile = drawn.integers(20 * level, 20 * level + 40, (64, 64, 3), np.uint8)
            file = f"{name}/{name}_{number + 1}.jpg"
            Image.fromarray(tile).save(folder / file)
            lists["train" if number < 3 else "test"].append(file)
    (folder / "splits").mkdir()
    for split, names in lists.items():
        (folder / "splits" / f"{split}.txt").write_text("\n".join(names))
    return folder


@pytest.fixture(scope="session")
def tools(repo, tiny) -> Tools:
    """Commands of the repository."""
    return Tools(repo, tiny)


@pytest.fixture(scope="session")
def trained(tools, tiny, tmp_path_factory) -> tuple[Path, Path]:
    """Config and work dir of a short classification run of four epochs."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny.write_cls_config(folder / "tiny_cls.py")
    tools.run("tools/train.py", config, "--work-dir", folder / "run")
    return config, folder / "run"


@pytest.fixture(scope="session")
def tested(tools, trained, tmp_path_factory) -> Path:
    """The output of ``tools/test.py --out`` for that run in one process."""
    folder = tmp_path_factory.mktemp("tested")
    config, work_dir = trained
    checkpoint = work_dir / "epoch_4.pth"
    out = folder / "out"
    tools.run("tools/test.py", config, checkpoint, "--work-dir", folder / "run", "--out", out)
    return out
