"""Who may import whom inside HOOK."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "hook"
PLAIN = {"arguments", "errors", "progress"}
MODEL_PARTS = {"tokenizers", "quantizers"}
GROUND = PLAIN | MODEL_PARTS | {"registry", "structures", "checkpoint", "geo", "scenes"}
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
    "quantizers": set(),
    "scenes": PLAIN | {"geo"},
    "regions": PLAIN | {"geo", "scenes", "tokenizers"},
    "models": GROUND | {"engine"},  # views of test-time augmentation
    "datasets": GROUND,
    "evaluation": GROUND,
    "engine": GROUND | {"datasets", "zoo"},
    "zoo": PLAIN | {"geo"},
    "inference": ROOMS,
    "visualization": ROOMS | {"inference"},
    "apis": ROOMS | {"inference", "visualization"},
    "explore": PLAIN | {"geo", "scenes", "regions", "zoo", "inference", "visualization", "apis"},
    "cli": ROOMS | {"apis", "inference", "visualization", "explore"},
}
WITHOUT_MMENGINE = ("geo", "tokenizers", "quantizers", "scenes", "regions")


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
            if names[0] == "hook" and len(names) > 1 and names[1] != "__version__":
                assert names[1] in ALLOWED[part] | {part}, f"{path.name} imports {name}"
            if part in WITHOUT_MMENGINE:
                assert names[0] not in ("mmengine", "mmseg", "mmcv"), f"{path.name} imports {name}"


# What only some files may name: so it stands once, and is mended once. Paths start at hook/.
RASTER, VECTOR = {"geo/raster.py"}, {"geo/vector.py"}
ONE_PLACE = {
    "rasterio.open": RASTER,
    "WarpedVRT": RASTER,
    "NotGeoreferencedWarning": RASTER,
    "CPLE_BaseError": RASTER,
    "MaskFlags": RASTER,
    ".mask_flag_enums": RASTER,
    ".read_masks": RASTER,
    ".dataset_mask": RASTER,
    "ColorInterp": RASTER | {"geo/arrays.py"},  # which writes it
    ".read_file": VECTOR,
    ".read_parquet": VECTOR,
    ".ParquetFile": VECTOR,
    "pyogrio.read_info": VECTOR,
    "pyogrio.open_arrow": VECTOR,
    "pyogrio": VECTOR | {"scenes/vector_files.py"},  # which writes them
    ".get_geod": {"geo/measure.py"},
    ".unit_conversion_factor": {"geo/measure.py"},
    ".linear_units_factor": {"geo/measure.py"},
}


def names(path):
    """All names that a file uses in its code: alone, as .attribute, and dotted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield from (f".{node.attr}", ast.unparse(node))
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.alias):
            yield from (node.name, node.name.rpartition(".")[2])


def test_what_stands_in_one_place():
    stray = []
    for path in (*ROOT.rglob("*.py"), *(ROOT.parent / "tools").rglob("*.py")):
        file = path.relative_to(ROOT if path.is_relative_to(ROOT) else ROOT.parent).as_posix()
        used = ONE_PLACE.keys() & set(names(path))
        stray += [f"{file} names {name}" for name in sorted(used) if file not in ONE_PLACE[name]]
    assert not stray


def test_rasters_and_vectors_need_no_model():
    heavy = ("torch", "torchgeo", "mmengine", "mmseg", "xarray")
    modules = ", ".join(f"hook.geo.{path.stem}" for path in (ROOT / "geo").glob("[!_]*.py"))
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"


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


# ------------------------------------------------------------------------------------ circles
def module_graph():
    """Modules of the package and those of them that each imports, inside functions too."""
    paths = {_module(path): path for path in ROOT.rglob("*.py")}
    graph = {}
    for module, path in paths.items():
        found = (name if name in paths else name.rpartition(".")[0] for name in imports(path))
        graph[module] = {name for name in found if name in paths} - {module}
    return graph


def _module(path):
    parts = ("hook", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_module_imports_itself_by_way_of_others():
    graph = module_graph()
    assert len(graph) > 100
    while leaves := {module for module, below in graph.items() if not below & graph.keys()}:
        graph = {module: below for module, below in graph.items() if module not in leaves}
    # What nothing imports that remains only leads into a circle.
    while roots := graph.keys() - set().union(*graph.values(), ()):
        graph = {module: below for module, below in graph.items() if module not in roots}
    circles = {module: sorted(below & graph.keys()) for module, below in graph.items()}
    assert not circles


# ------------------------------------------------------------------------------------ sizes
LIMITS = {"lines of a class": 450, "parameters of a function": 15}
# One-call functions of hook.apis take more keywords.
OF_MANY_KEYWORDS = ("apis",)


def definitions(node, name):
    """Classes and functions below a node, with their full names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            yield f"{name}.{child.name}", child
            yield from definitions(child, f"{name}.{child.name}")


def sizes():
    """What each class and function measures: (limit, name, size)."""
    for path in sorted(ROOT.rglob("*.py")):
        for name, node in definitions(ast.parse(path.read_text()), _module(path)):
            if isinstance(node, ast.ClassDef):
                yield "lines of a class", name, node.end_lineno - node.lineno + 1
            elif name.split(".")[1] not in OF_MANY_KEYWORDS:
                given = node.args
                names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                count = len(names) - (names[:1] in (["self"], ["cls"]))
                yield "parameters of a function", name, count


def test_classes_and_functions_are_small():
    assert not {name: size for limit, name, size in sizes() if size > LIMITS[limit]}
