"""What an installation must hold on a machine without a desktop."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="libGL is a matter of Linux desktops")
def test_cv2_links_no_libgl():
    """The headless build owns cv2: the other needs libGL, which a bare machine lacks."""
    if shutil.which("ldd") is None:
        pytest.skip("ldd, which lists a library's needs, is not on this machine")
    import cv2

    libraries = list(Path(cv2.__file__).parent.glob("cv2*.so"))
    assert libraries
    for library in libraries:
        needs = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
        assert "libGL." not in needs, f"{library} links libGL; run `make install` again"


def test_both_opencv_builds_have_one_version():
    version = importlib.metadata.version
    assert version("opencv-python") == version("opencv-python-headless")


def test_only_the_fork_of_openmmlab_is_installed():
    """Upstream's packages have the same import names and would overwrite the fork's files."""
    names = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    assert {"onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation"} <= names
    assert not names & {"mmengine", "mmcv", "mmcv-lite", "mmcv-full", "mmsegmentation"}


def test_the_command_is_installed():
    entry = importlib.metadata.entry_points(group="console_scripts", name="hook")
    assert [e.value for e in entry] == ["hook.cli:main"]


def test_constraints_satisfy_the_pins():
    """The exact versions lie inside the ranges of setup.cfg, on each version of Python."""
    import configparser

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = [
        line.strip()
        for line in setup["options"]["install_requires"].splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in pins if not line.startswith("#")]
    for python in ("3.11", "3.12", "3.13"):
        constraints = {
            canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
            for pin in pins
            if pin.marker is None or pin.marker.evaluate({"python_version": python})
        }
        for requirement in map(Requirement, lines):
            if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
                continue
            name = canonicalize_name(requirement.name)
            assert name in constraints, f"{name} is not in constraints.txt for Python {python}"
            assert constraints[name] in requirement.specifier, (name, python)


TRAIN = """
from pathlib import Path

import geopandas
import shapely

import hook
from hook.apis import train

assert Path(hook.__file__).is_relative_to(Path("site").resolve()), hook.__file__
corners = [(500000 + 2.4 * col, 5199997.6 - 2.4 * row) for row in range(4) for col in range(4)]
squares = [shapely.box(x, y, x + 1.2, y + 1.2) for x, y in corners]
labels = geopandas.GeoDataFrame(geometry=squares, crs="EPSG:32633")
sizes = dict(epochs=1, num_tokens=4, chip_size=32, batch_size=2)
no_workers = {
    f"{part}_dataloader.{key}": value
    for part in ("train", "val")
    for key, value in (("num_workers", 0), ("persistent_workers", False))
}
options = dict(background="ground", device="cpu", cfg_options=no_workers, progress=False)
train("scene.tif", labels, "run", **sizes, **options)
"""


def test_a_wheel_works_outside_the_checkout(tmp_path, rng, write_raster):
    """It maps and trains, and nothing but trouble is written to stderr."""
    source, python = tmp_path / "source", [sys.executable, "-m"]
    for name in ("hook", "configs"):
        hidden = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=hidden)
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [*python, "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    shutil.rmtree(source)
    grid = rasterio.transform.from_origin(500000, 5200000, 0.15, 0.15)
    image = rng.integers(0, 255, (3, 64, 64), dtype=np.uint8)
    write_raster(tmp_path / "scene.tif", image, transform=grid)
    hook = tmp_path / "site" / "bin" / "hook"
    model = "hook-fast-tiny_banepa-buildings"
    environment = os.environ | {"PYTHONPATH": "site", "CUDA_VISIBLE_DEVICES": ""}
    for command in (
        [hook, "models", "list"],
        [hook, "map", "--model", model, "scene.tif", "map.tif", "--quiet"],
        [sys.executable, "-c", TRAIN],
    ):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert (model in done.stdout) == ("list" in command)
    assert (tmp_path / "map.tif").is_file() and (tmp_path / "run" / "checkpoint.pth").is_file()


def test_no_large_file_is_committed():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    large = [n for n in listed.split("\0") if n and (ROOT / n).stat().st_size > 1_000_000]
    assert large == []
