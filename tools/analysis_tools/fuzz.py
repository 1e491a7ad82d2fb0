r"""Give the commands damaged and unusual files, and count how they end.

Each case is drawn from ``--seed``, its kind and its number: a small file (a raster in one of five
layouts, a vector layer in one of five formats, a table, a config or a checkpoint), a change of its
bytes, text or contents, and the command that reads it. Commands run in worker processes that stay
alive; a worker is replaced if a case crashes it or takes more than ``--limit`` seconds. Faults are
a traceback of a library, a signal, a hang, a file under a final name after a failure, and an output
that cannot be read after a success. Any fault ends the run with status 1.

    python tools/analysis_tools/fuzz.py --rasters 2000 --vectors 500 --tables 500 --configs 500 \
        --checkpoints 500 --jobs 2 --log fuzz.jsonl
    python tools/analysis_tools/fuzz.py --case rasters 17 --keep case_17
"""

import argparse
import collections
import contextlib
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import shapely
from prettytable import PrettyTable
from rasterio.shutil import copy
from rasterio.transform import Affine, from_origin
from tqdm import tqdm

from hook.engine.configs import load_config
from hook.engine.profiling import prepare_output
from hook.errors import ConfigError, HookError, reports_errors
from hook.geo.raster import quiet_open
from hook.geo.vector import read_vectors

KINDS = ("rasters", "vectors", "tables", "configs", "checkpoints")
FAULTS = ("traceback", "crash", "hang", "left a file", "unreadable output")
MODEL = "hook-fast-tiny_banepa-buildings"
CONFIG = "configs/hook/hook-fast-tiny_banepa-256.py"
ROOT = Path(__file__).resolve().parents[2]
SIDE, GRID = 96, from_origin(350_000, 3_050_000, 0.5, 0.5)
LAYOUTS: dict[str, dict[str, Any]] = {
    "strips.tif": dict(driver="GTiff"),
    "tiles.tif": dict(driver="GTiff", tiled=True, blockxsize=32, blockysize=32, compress="deflate"),
    "planes.tif": dict(driver="GTiff", interleave="band", compress="lzw", BIGTIFF="YES"),
    "cog.tif": dict(driver="COG", blocksize=128, compress="zstd", overviews="AUTO"),
    "picture.png": dict(driver="PNG", worldfile="YES"),
}
FORMATS = (".geojson", ".gpkg", ".shp", ".fgb", ".parquet")
VALUES = tuple(
    "nan inf -1 0 1e308 2147483648 99999999999999999999 '' ä\u202e".encode().split(b" ")
) + (b"", b"a b", b"\xff\xfe", b"x" * 300)
PYTHON_VALUES = (
    b"float('nan') float('inf') -1 0 1 7 2.5 1e308 2**40 None True [] () {} '' 'x' [1,2] "
    b"dict(type='x')"
).split()
TRANSFORMS = (
    *(GRID, GRID, Affine.identity(), Affine(1e-9, 0, 0, 0, -1e-9, 0), Affine(0, 1, 0, 1, 0, 0)),
    *(Affine(1, 0, np.nan, 0, -1, 0), Affine(1e30, 0, 0, 0, -1e30, 0)),
    Affine(0.5, 0.1, 350_000, 0.1, -0.5, 3_050_000),
    *(Affine(0.5, 0, 350_000, 0, 0.5, 3_050_000), Affine(0.1, 0, 179.9, 0, -0.1, 89.9)),
)
SYSTEMS = (
    *("EPSG:32645", "EPSG:32645", None, "EPSG:4326", "EPSG:4979", "EPSG:3857", "EPSG:3413"),
    *("EPSG:5773", "EPSG:4978", "EPSG:7415", 'LOCAL_CS["site",UNIT["metre",1]]'),
    "+proj=igh +type=crs",
    "+proj=omerc +lat_0=40 +lonc=0 +alpha=10 +k=1 +x_0=0 +y_0=0 +type=crs",
)
WORKER_CASES = 200  # after which a worker is replaced, so that the memory of a long run stays flat


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="N", help=f"cases of {kind}")
    parser.add_argument("--seed", type=int, default=0, help="seed of all cases (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes (default 1)")
    parser.add_argument("--limit", type=float, default=60, help="seconds for a case (default 60)")
    parser.add_argument("--log", help="JSON lines of all cases; those in it without a fault stay")
    parser.add_argument("--case", nargs=2, metavar=("KIND", "NUMBER"), help="run only this case")
    parser.add_argument("--keep", metavar="FOLDER", help="with --case: keep its files here")
    return parser.parse_args()


def draw(rng: np.random.Generator, values) -> Any:
    """Draw one of several values."""
    return values[int(rng.integers(len(values)))]


def mutate_bytes(rng: np.random.Generator, data: bytes) -> bytes:
    """Change some bytes of a file, often near its head, where the structure is described."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        size = len(changed)
        at = int(rng.integers(max(1, draw(rng, (min(size, 512), size)))))
        if rng.random() < 0.1:  # formats with a footer
            at = max(size - at - 1, 0)
        length = int(rng.integers(1, 9))
        change = rng.random()
        if change < 0.3:
            changed[at : at + length] = rng.bytes(length)
        elif change < 0.5:
            changed[at : at + length] = draw(rng, (b"\0", b"\xff", b"\x7f")) * length
        elif change < 0.85 and size:
            changed[at % size] ^= 1 << int(rng.integers(8))
        elif change < 0.9:
            del changed[at:]
        elif change < 0.95:
            del changed[at : at + length]
        else:
            changed[at:at] = bytes(changed[at : at + 64 * length])
    return bytes(changed)


def mutate_text(rng: np.random.Generator, data: bytes, values: Sequence[bytes] = VALUES) -> bytes:
    """Change a number, a word or a line of a text, or some of its bytes."""
    change = rng.random()
    if change < 0.1:
        return mutate_bytes(rng, data)
    if change < 0.25:
        lines = data.split(b"\n")
        at, other = rng.integers(len(lines), size=2)
        lines[at] = draw(rng, (b"", lines[other], lines[at] + b"\n" + lines[at]))
        return b"\n".join(lines)
    words = list(re.finditer(rb"-?\d+\.?\d*(?:e-?\d+)?|'[^']*'|True|False|None|\w+", data))
    if not words:
        return data
    found = draw(rng, [word for word in words if not word[0].isalpha()] or words)
    new = draw(rng, words)[0] if rng.random() < 0.2 else draw(rng, values)
    return data[: found.start()] + new + data[found.end() :]


def write_raster(path: Path, layout: str, rng: np.random.Generator, mask: bool = False) -> None:
    """Write an image, or a mask of two classes, in one of the layouts."""
    blobs = rng.integers(0, 2, (1, 6, 6)).repeat(SIDE // 6, 1).repeat(SIDE // 6, 2)
    values = blobs if mask else blobs * 90 + rng.integers(30, 120, (3, SIDE, SIDE))
    _write(path, values.astype(np.uint8), crs="EPSG:32645", transform=GRID, **LAYOUTS[layout])


def write_unusual_raster(path: Path, rng: np.random.Generator) -> str:
    """Write a valid GeoTIFF with unusual properties and return their description."""
    dtype = draw(rng, ("uint8", "uint8", "int8", "uint16", "int16", "int32", "float32", "float64"))
    if rng.random() < 0.1:
        dtype = draw(rng, ("complex64", "complex128", "complex_int16", "uint64"))
    shape = [int(draw(rng, (3, 3, 1, 2, 4, 5))), *(int(draw(rng, (SIDE, 1, 7, 130))) for _ in "hw")]
    values = rng.integers(0, 120, shape).astype("complex64" if "complex" in dtype else dtype)
    if values.dtype.kind == "f":
        spots = rng.random(shape) < draw(rng, (0, 0.01, 1))
        values[spots] = draw(rng, (np.nan, np.inf, -np.inf, 1e38, -9999))
    transform, crs = draw(rng, TRANSFORMS), draw(rng, SYSTEMS)
    nodata = None
    if rng.random() < 0.5:
        limits = [0, 255 if dtype == "uint8" else 100]
        if values.dtype.kind == "f":
            limits += [np.nan, np.inf, -3.4028234663852886e38]
        nodata = draw(rng, limits)
    _write(path, values, driver="GTiff", crs=crs, transform=transform, nodata=nodata, dtype=dtype)
    with quiet_open(path, "r+") as file:
        change = rng.integers(6)
        if change == 0 and "complex" not in dtype:
            file.scales = (draw(rng, (0.1, 0, np.nan)),) * shape[0]
            file.offsets = (5.0,) * shape[0]
        elif change == 1:
            names = ("B4", "red", "", "ä" * 300)
            file.descriptions = tuple(draw(rng, names) for _ in range(shape[0]))
        elif change == 2:
            file.write_mask(rng.integers(0, 2, shape[1:]).astype(np.uint8) * 255)
        elif change == 3:
            file.update_tags(AREA_OR_POINT="Point", note="\x01 <&>")
    return f"{dtype} {shape} {crs} {tuple(transform)[:6]} nodata {nodata}"


def _write(path: Path, values: np.ndarray, driver: str, **profile) -> None:
    count, height, width = values.shape
    profile = dict(dtype=values.dtype, count=count, height=height, width=width) | profile
    creates = driver == "GTiff"
    with quiet_open(
        path if creates else path.with_name("source.tif"), "w", driver="GTiff", **profile
    ) as file:
        file.write(values)
    if not creates:
        names = ("blocksize", "compress", "overviews", "worldfile")
        options = {name: profile[name] for name in names if name in profile}
        copy(path.with_name("source.tif"), path, driver=driver, **options)
        path.with_name("source.tif").unlink()


def polygons(rng: np.random.Generator) -> geopandas.GeoDataFrame:
    """Draw labelled polygons over the raster's area."""
    corners = rng.uniform(0, SIDE / 2 - 8, (12, 2)) * [1, -1] + [GRID.c, GRID.f]
    boxes = [shapely.box(x, y - 6, x + 6, y) for x, y in corners]
    classes = [draw(rng, ("water", "land")) for _ in boxes]
    return geopandas.GeoDataFrame({"class": classes}, geometry=boxes, crs="EPSG:32645")


def unusual_layer(rng: np.random.Generator, layer: geopandas.GeoDataFrame):
    """Change geometries, CRS or attributes of a layer; return it with a description."""
    x, y = GRID.c, GRID.f
    box = shapely.box(x, y - 9, x + 9, y)
    odd = {
        "null": None,
        "empty": shapely.Polygon(),
        "point": shapely.Point(x + 5, y - 5),
        "line": shapely.LineString([(x, y), (x + 20, y - 20)]),
        "bow-tie": shapely.Polygon([(x, y), (x + 9, y - 9), (x + 9, y), (x, y - 9)]),
        "huge": shapely.box(-1e30, -1e30, 1e30, 1e30),
        "infinite": shapely.Polygon([(x, y), (np.inf, y), (x, y - 9)]),
        "NaN": shapely.Polygon([(x, y), (np.nan, y), (x, y - 9)]),
        "flat": shapely.Polygon([(x, y), (x + 9, y), (x + 5, y)]),
        "3-D": shapely.Polygon([(x, y, 1), (x + 9, y, 2), (x, y - 9, 3)]),
        "collection": shapely.GeometryCollection([shapely.Point(x, y), box]),
    }
    name = draw(rng, (*odd, "no rows", "no CRS", "CRS", "attributes", "no attribute"))
    if name in odd:
        rows = range(len(layer)) if rng.random() < 0.3 else rng.integers(len(layer), size=2)
        shapes = list(layer.geometry)
        for row in rows:
            shapes[row] = odd[name]
        layer = layer.set_geometry(geopandas.GeoSeries(shapes, crs=layer.crs))
    elif name == "no rows":
        layer = layer.iloc[:0]
    elif name == "no CRS":
        layer = layer.set_crs(None, allow_override=True)
    elif name == "CRS":
        crs = draw(rng, ("EPSG:4326", "EPSG:3857", "EPSG:4978", "EPSG:3413", "EPSG:2193"))
        layer = layer.set_crs(crs, allow_override=True)
    elif name == "attributes":
        values = draw(rng, ([np.nan], [1.5], [True], [""], ["x" * 300], [2**40], ["0"], [" land"]))
        layer = layer.assign(**{"class": (values * len(layer))[: len(layer)]})
    else:
        layer = layer.drop(columns="class")
    return layer, name


class Cases:
    """Files that all cases start from, written once, and the cases themselves.

    Args:
        folder: Folder of the files.
        seed: Seed of all cases.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        from hook.apis import RegionExtractor
        from hook.inference.models import load_model

        self.folder, self.seed = folder, seed
        rng = np.random.default_rng(seed)
        for layout in LAYOUTS:
            write_raster(folder / layout, layout, rng)
        for name in ("images", "masks"):
            (folder / name).mkdir()
            for number in range(3):
                path = folder / name / f"s{number}.tif"
                write_raster(path, "tiles.tif", rng, mask=name == "masks")
        self.layer = polygons(rng)
        model = load_model(MODEL)
        self._write_config()
        meta = dict(dataset_meta=dict(model.dataset_meta))
        import torch

        torch.save(dict(meta=meta, state_dict=model.state_dict()), folder / "checkpoint.pth")
        shutil.copy(ROOT / "hook" / "zoo" / f"{MODEL}.safetensors", folder / "model.safetensors")
        scene = str(folder / "tiles.tif")
        extractor = RegionExtractor(model, threads=1)
        extractor.extract(scene, str(folder / "regions.parquet"), window=SIDE, progress=False)
        count = len(pq.read_table(folder / "regions.parquet"))
        rows = [f"{row},{draw(rng, ('water', 'land'))}" for row in range(min(count, 12))]
        (folder / "labels.csv").write_text("\n".join(["region_id,class", *rows]) + "\n")
        (folder / "val.txt").write_text("s2\n")

    def _write_config(self) -> None:
        cfg = load_config(ROOT / CONFIG)
        for part in ("train", "val", "test"):
            data = cfg[f"{part}_dataloader"]
            data.num_workers, data.persistent_workers = 0, False
            data.dataset.update(
                data_root=str(self.folder), images="images", masks="masks", chip_size=SIDE
            )
            data.dataset.split = ["s2"] if part == "val" else ["s0", "s1"]
        cfg.model.data_preprocessor.size = (SIDE, SIDE)
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.dump(str(self.folder / "config.py"))

    def prepare(self, kind: str, number: int, folder: Path) -> tuple[str, str, Callable[[], None]]:
        """Write the files of a case.

        Args:
            kind: One of ``KINDS``.
            number: Number of the case.
            folder: Folder for its files; outputs go to its folder ``out``.

        Returns:
            Name of the command, what was changed, and a function that runs it.
        """
        rng = np.random.default_rng([self.seed, KINDS.index(kind), number])
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        (folder / "out").mkdir()
        return getattr(self, f"_{kind}")(rng, folder)

    def _rasters(self, rng, folder):
        command = draw(rng, ("map", "predict", "regions", "train"))
        layout = draw(rng, tuple(LAYOUTS))
        path = folder / layout
        if command == "train":
            path = folder / draw(rng, ("images", "masks")) / "s1.tif"
        if rng.random() < 0.6:
            path.write_bytes(mutate_bytes(rng, path.read_bytes()))
            change = f"bytes of {layout}"
        else:
            path.unlink()
            path = path.with_suffix(".tif")
            change = write_unusual_raster(path, rng)
        if command == "train":
            return command, change, lambda: self._train(folder)
        return command, change, lambda: self._hook(command, folder, path)

    def _vectors(self, rng, folder):
        command = draw(rng, ("map", "regions", "label", "train", "stats"))
        path = folder / f"layer{draw(rng, FORMATS)}"
        if command == "label" and rng.random() < 0.3:
            path = folder / "regions.parquet"
        elif rng.random() < 0.5:
            self._write_layer(self.layer, path)
        else:
            layer, change = unusual_layer(rng, self.layer)
            try:
                self._write_layer(layer, path)
            except RuntimeError:  # the format cannot hold it
                path = path.with_suffix(".parquet")
                self._write_layer(layer, path)
            return command, f"{change} in {path.suffix}", self._vector_run(command, folder, path)
        parts = sorted(p for p in folder.glob(f"{path.stem}.*") if p.suffix != ".cpg")
        part = draw(rng, parts) if path.suffix == ".shp" else path
        text = part.suffix in (".geojson", ".prj")
        part.write_bytes((mutate_text if text else mutate_bytes)(rng, part.read_bytes()))
        return command, f"bytes of {part.name}", self._vector_run(command, folder, path)

    @staticmethod
    def _write_layer(layer: geopandas.GeoDataFrame, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer.to_parquet(path) if path.suffix == ".parquet" else layer.to_file(path)

    def _vector_run(self, command, folder, path):
        if command == "label":
            return lambda: self._label(folder, path)
        if command == "train":
            return lambda: self._train(folder, labels=path)
        if command == "stats":
            options = ("--zones", path, "--out", folder / "out" / "stats.csv", "--quiet")
            return lambda: _run_command("stats", folder / "masks" / "s0.tif", *options)
        return lambda: self._hook(command, folder, folder / "tiles.tif", "--aoi", path)

    def _tables(self, rng, folder):
        command = draw(rng, ("label", "label", "train"))
        path = folder / ("labels.csv" if command == "label" else "val.txt")
        path.write_bytes(mutate_text(rng, path.read_bytes()))
        if command == "label":
            return command, "text", lambda: self._label(folder, path)
        return command, "text of the list", lambda: self._train(folder, val=str(path))

    def _configs(self, rng, folder):
        command = draw(rng, ("map", "predict", "regions", "train"))
        path = folder / "config.py"
        path.write_bytes(mutate_text(rng, path.read_bytes(), PYTHON_VALUES))
        pair = (path, folder / "checkpoint.pth")
        if command == "train":
            return command, "text", lambda: self._train_config(folder)
        scene = folder / "tiles.tif"
        return command, "text", lambda: self._hook(command, folder, scene, model=pair)

    def _checkpoints(self, rng, folder):
        command = draw(rng, ("map", "predict", "regions", "train"))
        name = draw(rng, ("checkpoint.pth", "model.safetensors"))
        path = folder / name
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        change = f"bytes of {name}"
        if command == "train":
            return command, change, lambda: self._train(folder, pretrained=str(path))
        pair = (ROOT / CONFIG, path) if path.suffix == ".pth" else ("--model", path)
        scene = folder / "tiles.tif"
        return command, change, lambda: self._hook(command, folder, scene, model=pair)

    def _hook(self, command, folder, scene, *options, model=("--model", MODEL)):
        out = folder / "out"
        if command == "predict":
            return _run_command(command, *model, scene, "--out", out / "masks", "--quiet")
        output = out / ("map.tif" if command == "map" else "regions.parquet")
        options = ("--window", 64, "--threads", 1, "--quiet", *options)
        return _run_command(command, *model, scene, output, *options)

    def _label(self, folder, path):
        regions = path if path.name == "regions.parquet" else folder / "regions.parquet"
        labels = folder / "labels.csv" if path == regions else path
        _run_command("label", regions, labels, folder / "out" / "labelled.gpkg", "--quiet")

    def _train(self, folder, labels=None, **options):
        from hook.apis import train

        small = {"train_dataloader.num_workers": 0, "val_dataloader.num_workers": 0}
        train(
            str(folder / "images"),
            str(labels or folder / "masks"),
            folder / "out" / "run",
            base=str(ROOT / CONFIG),
            label="class" if labels else None,
            background="other" if labels else None,
            chip_size=64,
            epochs=1,
            batch_size=8,
            num_tokens=4,
            device="cpu",
            cfg_options=small,
            progress=False,
            **options,
        )

    def _train_config(self, folder):
        import runpy

        arguments = [folder / "config.py", "--work-dir", folder / "out" / "run"]
        sys.argv = ["train.py", *map(str, arguments)]
        runpy.run_path(str(ROOT / "tools" / "train.py"), run_name="__main__")


def _run_command(name: str, *arguments) -> None:
    from hook.cli import main

    main([name, *map(str, arguments)])


def check_outputs(out: Path, failed: bool) -> str | None:
    """Return what is wrong with the files that a case left."""
    found = [p for p in sorted(out.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    if any(part.startswith(".") for p in found for part in p.relative_to(out).parts):
        found = []
    if failed:
        # Checkpoints of epochs before the failure are complete.
        results = (".tif", ".parquet", ".gpkg", ".csv", "checkpoint.pth")
        found = [p for p in found if p.name.endswith(results) and "arrays" not in p.parts]
        return f"left a file: {found[0].relative_to(out)}" if found else None
    try:
        for path in found:
            if path.suffix == ".tif":
                with quiet_open(path) as file:
                    file.read()
            elif path.suffix in (".parquet", ".gpkg"):
                read_vectors(path)
    except Exception as error:
        return f"unreadable output: {path.name}: {error}"
    return None


def run_case(cases: Cases, kind: str, number: int, folder: Path) -> dict[str, Any]:
    """Run a case in this process and return its row of the log."""
    start, said = time.monotonic(), io.StringIO()
    command, change, run = cases.prepare(kind, number, folder)
    row = dict(kind=kind, number=number, command=command, change=change)
    os.chdir(folder)
    outcome, message = "done", ""
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            run()
    except HookError as error:
        outcome, message = "refused", str(error)
    except SystemExit as error:
        text = said.getvalue().strip()
        if error.code not in (None, 0):
            outcome, message = "refused", text[-1000:]
            if "error: " not in text or "Traceback (most recent" in text:
                outcome = "traceback"
    except BaseException:
        outcome, message = "traceback", traceback.format_exc()[-3000:]
    if outcome != "traceback" and (wrong := check_outputs(folder / "out", outcome == "refused")):
        outcome, _, message = wrong.partition(": ")
    os.chdir(tempfile.gettempdir())
    return row | dict(outcome=outcome, message=message, seconds=round(time.monotonic() - start, 2))


def serve(pipe, seed: int, base: Path) -> None:
    """Run the cases that come through a pipe; libraries' messages are discarded."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    # A damaged size in a header must not take all memory, or fill the disk.
    resource.setrlimit(resource.RLIMIT_DATA, (12 << 30, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, resource.RLIM_INFINITY))
    import torch

    torch.set_num_threads(1)
    base.mkdir()
    cases = Cases(base, seed)
    pipe.send(None)
    while True:
        kind, number, folder = pipe.recv()
        pipe.send(run_case(cases, kind, number, folder))


class Worker:
    """A process that runs cases, replaced when one of them crashes or hangs."""

    def __init__(self, folder: Path, seed: int, limit: float) -> None:
        self.folder, self.seed, self.limit = folder, seed, limit
        self.process, self.cases, self.started = None, 0, 0

    def run(self, kind: str, number: int, folder: Path) -> dict[str, Any]:
        """Run a case and return its row of the log."""
        if self.process is None or self.cases >= WORKER_CASES:
            self._start()
        self.cases += 1
        row = dict(kind=kind, number=number, command="", change="", seconds=self.limit)
        self.pipe.send((kind, number, folder))
        try:
            if self.pipe.poll(self.limit):
                return self.pipe.recv()
            outcome, message = "hang", f"more than {self.limit:g} s"
        except (EOFError, ConnectionError):
            self.process.join()
            outcome, message = "crash", f"exit status {self.process.exitcode}"
        self.stop()
        return row | dict(outcome=outcome, message=message)

    def _start(self) -> None:
        self.stop()
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.started += 1
        base = self.folder / f"base{id(self)}_{self.started}"
        self.process = context.Process(target=serve, args=(other, self.seed, base), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()
        self.cases = 0

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process = None


def report(rows: list[dict[str, Any]]) -> int:
    """Print counts and faults, and return the number of faults."""
    counts = collections.Counter((row["kind"], row["outcome"]) for row in rows)
    outcomes = ("done", "refused", *FAULTS)
    table = PrettyTable(["kind", "cases", *outcomes])
    for kind in KINDS:
        if total := sum(counts[kind, outcome] for outcome in outcomes):
            table.add_row([kind, total, *(counts[kind, outcome] for outcome in outcomes)])
    print(table)
    faults = [row for row in rows if row["outcome"] in FAULTS]
    for row in faults:
        lines = row["message"].strip().splitlines() or [""]
        print(
            f"{row['kind']} {row['number']} ({row['command']}, {row['change']}): "
            f"{row['outcome']}: {lines[-1]}"
        )
    return len(faults)


def run_all(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run the cases that the log lacks, or has with a fault; return the rows of all."""
    rows = []
    if args.log and Path(args.log).exists():
        rows = [json.loads(line) for line in Path(args.log).read_text().splitlines()]
        rows = [row for row in rows if row["outcome"] not in FAULTS]
        Path(args.log).write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = {(row["kind"], row["number"]) for row in rows}
    todo = collections.deque(
        (kind, number)
        for kind in KINDS
        for number in range(getattr(args, kind))
        if (kind, number) not in known
    )
    lock, bar = threading.Lock(), tqdm(total=len(todo), unit="case", disable=None)

    def work() -> None:
        worker = Worker(folder, args.seed, args.limit)
        while True:
            with lock:
                if not todo:
                    break
                kind, number = todo.popleft()
            (place := folder / f"{kind}_{number}").mkdir()
            row = worker.run(kind, number, place)
            shutil.rmtree(place, ignore_errors=True)
            with lock:
                rows.append(row)
                bar.update()
                if args.log:
                    with open(args.log, "a") as log:
                        log.write(json.dumps(row) + "\n")
        worker.stop()

    threads = [threading.Thread(target=work) for _ in range(args.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bar.close()
    return rows


@reports_errors
def main() -> None:
    args = parse_args()
    prepare_output(args, "log")
    with tempfile.TemporaryDirectory() as name:
        if not args.case:
            sys.exit(report(run_all(args, Path(name))) > 0)
        kind, number = args.case
        if kind not in KINDS or not number.isdecimal():
            raise ConfigError(
                f"--case {kind} {number}", expected=f"a kind ({', '.join(KINDS)}) and a number"
            )
        place = Path(args.keep or Path(name) / "case").absolute()
        place.mkdir(parents=True)
        (base := Path(name) / "base").mkdir()
        row = run_case(Cases(base, args.seed), kind, int(number), place)
        print(json.dumps(row, indent=1).replace("\\n", "\n"))
        sys.exit(row["outcome"] in FAULTS)


if __name__ == "__main__":
    main()
