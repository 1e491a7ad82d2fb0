"""Tiny data, configs and checkpoints, see ``tests/data/tiny_runs.py``."""

import importlib.util
import sys
from pathlib import Path

import pytest

_NAME, _PATH = "tiny_runs", Path(__file__).resolve().parents[1] / "data" / "tiny_runs.py"


def _load():
    if _NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(_NAME, _PATH)
        module = importlib.util.module_from_spec(spec)
        sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[_NAME]


@pytest.fixture(scope="session")
def tiny():
    """The generator module."""
    return _load()


@pytest.fixture(scope="session")
def cls_run(tiny, tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a tiny classifier."""
    folder = tmp_path_factory.mktemp("cls")
    config = tiny.write_cls_config(folder / "tiny_cls.py")
    return config, tiny.write_checkpoint(config, folder / "cls.pth")


@pytest.fixture(scope="session")
def scenes(tiny, tmp_path_factory) -> Path:
    """A folder with three scenes and their masks."""
    return tiny.write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def seg_run(tiny, scenes, tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a tiny segmentation of these scenes."""
    folder = tmp_path_factory.mktemp("seg")
    config = tiny.write_seg_config(folder / "tiny_seg.py", scenes)
    return config, tiny.write_checkpoint(config, folder / "seg.pth")
