"""Shared fixtures: the folder of real imagery, and one thread per test process."""

import os
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

REPO = Path(__file__).resolve().parents[1]
torch.set_num_threads(max(1, min(2, os.cpu_count() or 1)))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPO


def _shared() -> Path:
    return Path(os.environ.get("HOOK_SHARED", REPO.parent / "shared")).resolve()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real imagery; the test skips where it is absent."""
    folder = _shared() / "data"
    if not folder.is_dir():
        pytest.skip(f"no real imagery at {folder}; set HOOK_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with numbers of the official implementation; the test skips where absent."""
    folder = _shared() / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}; set HOOK_SHARED to the folder with golden/")
    return folder


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
