"""Who may import whom inside HOOK."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "hook"
PLAIN = {"arguments", "errors", "progress"}
GROUND = PLAIN | {"registry", "structures", "checkpoint", "geo", "tokenizers", "scenes"}
ROOMS = GROUND | {"regions", "models", "datasets", "evaluation", "engine", "zoo"}
ALLOWED = {
    "errors": set(),
    "arguments": {"errors"},
    "registry": set(),
    "structures": {"tokenizers"},
    "checkpoint": {"arguments", "errors"},
    "progress": set(),
    "geo": PLAIN,
    "tokenizers": set(),
    "scenes": PLAIN | {"geo"},
    "regions": PLAIN | {"geo", "scenes", "tokenizers"},
    "models": GROUND | {"engine"},  # views of test-time augmentation
    "datasets": GROUND,
    "evaluation": GROUND,
    "engine": GROUND | {"datasets"},
    "zoo": PLAIN | {"geo"},
    "inference": ROOMS,
    "visualization": ROOMS | {"inference"},
    "apis": ROOMS | {"inference", "visualization"},
    "cli": {"errors", "apis", "inference", "visualization", "regions", "scenes"},
}
# What does not lie on its floor yet.
PENDING = {
    ("cli", "engine.models"),
    ("visualization", "apis.layers"),
}
WITHOUT_MMENGINE = ("geo", "tokenizers", "scenes", "regions")


def imports(path):
    """Full dotted names a file imports, relative ones resolved."""
    package = ("hook", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def parts():
    found = {p.stem if p.is_file() else p.name for p in ROOT.iterdir() if p.suffix in ("", ".py")}
    return sorted(found - {"__init__", "__pycache__"})


def test_every_part_has_a_rule():
    assert set(parts()) <= set(ALLOWED)


@pytest.mark.parametrize("part", parts())
def test_imports_go_down(part):
    folder = ROOT / part
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    assert files
    for path in files:
        for name in imports(path):
            names = name.split(".")
            pending = (part, ".".join(names[1:3])) in PENDING
            if names[0] == "hook" and len(names) > 1 and names[1] != "__version__" and not pending:
                assert names[1] in ALLOWED[part] | {part}, f"{path.name} imports {name}"
            if part in WITHOUT_MMENGINE:
                assert names[0] not in ("mmengine", "mmseg", "mmcv"), f"{path.name} imports {name}"


def test_importing_hook_is_light():
    heavy = ("torch", "rasterio", "mmengine")
    code = f"import sys, hook; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"


def test_tests_mirror_the_package():
    tests = Path(__file__).parent
    for folder in (p for p in tests.iterdir() if (ROOT / p.name).is_dir()):
        assert list(folder.glob("test_*.py")), folder
    for part in parts():
        if (ROOT / part).is_dir():
            assert (tests / part).is_dir(), f"no tests/{part}"
