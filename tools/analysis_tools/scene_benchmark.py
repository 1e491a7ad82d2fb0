r"""Benchmark the mapping of scenes against the bare model and mmseg's slide inference.

A seeded scene (uint8, three bands, tiled and compressed) is mapped with random weights, including
reading, blending and writing of the Cloud-Optimised GeoTIFF. The bare model runs on as many windows
in memory, in the same process, alternating with the map. ``--heights`` maps scenes of these heights
and runs mmseg's slide inference on the same pixels, each in a fresh process, and plots time and
peak memory. ``--pixelwise`` maps scenes of these sizes with a 1x1 convolution, each in a fresh
process, and compares memory and disk with the estimates of ``hook map --dry-run``. ``--workers``
compares one process with these numbers of processes of ``--cluster local``; starting them is timed
separately. ``--regions`` makes this many regions of the whole scene (``hook regions
--regions-per-km2``), alternating with scikit-image's SLIC of as many superpixels. ``--codes`` codes
and decodes a scene with an autoencoder, alternating with its networks on the same windows.

    python tools/analysis_tools/scene_benchmark.py configs/benchmark/hook-fast_vit-b_seg-512.py \
        --threads 2 --json scene.json --heights 1024 2048 4096 --out scene.png
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from matplotlib.figure import Figure
from prettytable import PrettyTable
from rasterio.transform import from_origin
from skimage import segmentation
from torch import nn
from tqdm import tqdm

from hook.apis import RegionExtractor, SceneMapper, decode, encode
from hook.cli.options import positive_int
from hook.engine.configs import load_config, setup_environment
from hook.engine.models import build_model, default_window
from hook.engine.profiling import (
    command_line,
    device_name,
    prepare_output,
    relative_path,
    write_json,
)
from hook.errors import ConfigError, DataError, reports_errors
from hook.geo.measure import metres_per_pixel
from hook.geo.raster import open_raster, quiet_open
from hook.geo.staging import save_png
from hook.inference.codes import code_grid
from hook.inference.windows import WindowPredictor
from hook.scenes import MapRequest, WindowGrid, map_scene
from hook.scenes.coding import DEFAULT_WINDOW
from hook.scenes.estimate import estimate
from hook.scenes.mapping import plan_map
from hook.scenes.reader import SceneReader
from hook.visualization.drawing import figure_to_rgb

PIXELWISE_CLASSES = 2


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of a model; weights are random")
    parser.add_argument("--checkpoint", metavar="FILE", help="its weights, for --workers")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(3072, 4096),
        metavar=("HEIGHT", "WIDTH"),
        help="size of the scene (default 3072 4096)",
    )
    parser.add_argument("--window", type=int, help="side of a window (default: the model's)")
    parser.add_argument("--overlap", type=float, default=0.25, help="of windows (default 0.25)")
    parser.add_argument("--batch", type=int, default=4, help="windows per batch (default 4)")
    parser.add_argument("--repeats", type=int, default=3, help="number of maps (default 3)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument(
        "--heights",
        type=int,
        nargs="+",
        default=[],
        metavar="ROWS",
        help="compare time and memory with slide inference at these heights",
    )
    parser.add_argument("--slide-width", type=int, default=2048, help="their width (default 2048)")
    parser.add_argument(
        "--pixelwise",
        type=_size,
        nargs="+",
        default=[],
        metavar="HEIGHTxWIDTH",
        help="measure memory and disk of scenes of these sizes with a 1x1 convolution",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        nargs="+",
        default=[],
        metavar="N",
        help="compare one process with these numbers of local workers",
    )
    parser.add_argument(
        "--regions",
        type=positive_int,
        metavar="N",
        help="compare this number of regions with SLIC (10 iterations)",
    )
    parser.add_argument("--codes", action="store_true", help="the config is of an autoencoder")
    parser.add_argument(
        "--scene",
        metavar="FILE",
        help="scene for --workers and --regions (default: a seeded one of --size)",
    )
    parser.add_argument("--skip-rates", action="store_true", help="skip the bare model")
    parser.add_argument("--json", metavar="FILE", help="write the report here")
    parser.add_argument("--out", metavar="PNG", help="plot the results of --heights here")
    args = parser.parse_args()
    if args.out and not args.heights:
        parser.error("--out needs --heights")
    return args


def _size(text: str) -> tuple[int, int]:
    """Read ``HEIGHTxWIDTH``."""
    try:
        height, width = (int(part) for part in text.split("x"))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 4096x2048")
    return height, width


def write_scene(path: Path, height: int, width: int, empty_rows: int = 0) -> None:
    """Write a seeded scene: smooth fields with noise, nodata 0 in the last rows."""
    rng = np.random.default_rng(0)
    profile = dict(driver="GTiff", count=3, height=height, width=width, dtype="uint8", nodata=0)
    profile |= dict(tiled=True, blockxsize=256, blockysize=256, compress="deflate", zlevel=1)
    profile |= dict(crs="EPSG:32633", transform=from_origin(5e5, 5e6, 0.5, 0.5))
    with quiet_open(path, "w", **profile) as target:
        for row in range(0, height, 256):
            rows = min(256, height - row)
            fields = rng.integers(20, 220, (3, rows // 64 + 1, width // 64 + 1))
            values = fields.repeat(64, axis=1).repeat(64, axis=2)[:, :rows, :width]
            values = (values + rng.integers(0, 32, values.shape)).astype(np.uint8)
            values[:, max(height - empty_rows - row, 0) :] = 0
            target.write(values, window=rasterio.windows.Window(0, row, width, rows))


def build(args: argparse.Namespace, part: str = "decode_head") -> nn.Module:
    """Build the config's model with random weights; raise ConfigError if it lacks a part."""
    setup_environment()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cfg = load_config(args.config)
    model = build_model(cfg).to(args.device).eval()
    if not hasattr(model, part):
        raise ConfigError(
            f"{args.config} is of another kind of model",
            expected=f"a model with a {part}",
            found=type(model).__name__,
        )
    model.cfg, model.dataset_meta = cfg, {}
    if part == "decode_head":
        count = model.decode_head.num_classes
        model.dataset_meta = dict(classes=tuple(f"class_{i}" for i in range(count)))
    return model


def run_map(model: nn.Module, scene: Path, args: argparse.Namespace) -> float:
    """Map a scene into a temporary folder and return the duration in seconds."""
    predict = WindowPredictor(model)
    with tempfile.TemporaryDirectory(dir=scene.parent) as folder:
        start = time.perf_counter()
        request = MapRequest(
            scene,
            Path(folder) / "map.tif",
            window=args.window or default_window(model),
            overlap=args.overlap,
            batch_size=args.batch,
            progress=False,
        )
        map_scene(predict, request, num_classes=model.decode_head.num_classes)
        return time.perf_counter() - start


@torch.inference_mode()
def run_bare(model: nn.Module, batch: torch.Tensor, batches: int) -> float:
    """Run the model on batches of windows and return the duration in seconds."""
    size = tuple(batch.shape[-2:])
    metas = [dict(ori_shape=size, img_shape=size, pad_shape=size)] * len(batch)
    device = next(model.parameters()).device
    start = time.perf_counter()
    for _ in range(batches):
        model.inference(batch.to(device), metas).cpu()
    return time.perf_counter() - start


@torch.inference_mode()
def run_slide(model: nn.Module, scene: Path, args: argparse.Namespace) -> float:
    """Run mmseg's slide inference on a scene in memory and return the duration in seconds."""
    window = args.window or default_window(model)
    stride = window - WindowGrid(window, window, window, args.overlap).overlap
    with open_raster(scene) as source:
        image = torch.from_numpy(source.read())
    start = time.perf_counter()
    data = model.data_preprocessor({"inputs": [image.to(args.device)]}, False)
    size = tuple(image.shape[-2:])
    model.test_cfg = type(model.test_cfg)(
        mode="slide", crop_size=(window, window), stride=(stride, stride)
    )
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
    logits = model.inference(data["inputs"], [meta])
    logits.softmax(dim=1).argmax(dim=1).to(torch.uint8).cpu()
    return time.perf_counter() - start


def compare_rates(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time maps alternating with the bare model, and maps of a scene half without data."""
    model = build(args)
    height, width = args.size
    window = args.window or default_window(model)
    grid = WindowGrid(height, width, window, args.overlap)
    full, half = folder / "full.tif", folder / "half.tif"
    write_scene(full, height, width)
    write_scene(half, height, width, empty_rows=height // 2)
    with SceneReader(full) as reader:
        windows = [reader.read(grid[i], window).image for i in range(args.batch)]
    data = {"inputs": [torch.from_numpy(image) for image in windows]}
    batch = model.data_preprocessor(data, False)["inputs"].cpu()
    batches = -(-len(grid) // args.batch)
    run_bare(model, batch, 2)
    bare, mapped, sparse = [], [], []
    for _ in tqdm(range(args.repeats), unit="round", disable=None):
        before = run_bare(model, batch, batches // 2)
        mapped.append(run_map(model, full, args))
        bare.append(before + run_bare(model, batch, batches - batches // 2))
        sparse.append(run_map(model, half, args))
    ratios = np.array(bare) / np.array(mapped)
    return {
        "size": [height, width],
        "windows": len(grid),
        "batches": batches,
        "bare_seconds": bare,
        "map_seconds": mapped,
        "half_empty_seconds": sparse,
        "map_rate_over_bare": float(np.median(ratios)),
        "half_empty_speed_up": float(np.median(np.array(mapped) / np.array(sparse))),
    }


def in_fresh_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict | None:
    """Call a function in a fresh process; None if it is killed, most likely for memory."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, *arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.join()


def _send(connection, function: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    connection.send(function(*arguments))


def _peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _time(args: argparse.Namespace, kind: str, scene: Path) -> dict[str, Any]:
    """Measure time and memory of ``map`` or ``slide``."""
    warnings.simplefilter("ignore")
    run = run_map if kind == "map" else run_slide
    seconds = run(build(args), scene, args)
    return {"seconds": seconds, "peak_memory_bytes": _peak_memory()}


def compare_sizes(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure time and memory of maps and slide inference over the heights."""
    points = []
    with tqdm(total=2 * len(args.heights), unit="run", disable=None) as progress:
        for height in args.heights:
            scene = folder / f"{height}.tif"
            write_scene(scene, height, args.slide_width)
            point: dict[str, Any] = {"height": height, "width": args.slide_width}
            for kind in ("map", "slide"):
                point[kind] = in_fresh_process(_time, args, kind, scene)
                progress.update()
            points.append(point)
    return points


class PixelwiseModel:
    """A 1x1 convolution as a predict function."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, PIXELWISE_CLASSES, 1)

    @torch.inference_mode()
    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return the scores of windows (B, C, h, w)."""
        return self.conv(torch.from_numpy(windows) / 255.0).softmax(dim=1).numpy()


def _measure(args: argparse.Namespace, size: tuple[int, int], folder: Path) -> dict[str, Any]:
    """Map ``scene.tif`` of a folder and return measured and estimated memory and disk."""
    if args.threads:
        torch.set_num_threads(args.threads)
    scene, output = folder / "scene.tif", folder / "map.tif"
    window = args.window or 512
    options = dict(window=window, overlap=args.overlap, batch_size=args.batch, progress=False)
    request = MapRequest(scene, output, **options)
    model = PixelwiseModel()
    expected = estimate(model, *plan_map(request, num_classes=PIXELWISE_CLASSES))
    before = _peak_memory()
    start = time.perf_counter()
    map_scene(model, request, num_classes=PIXELWISE_CLASSES)
    return {
        "seconds": time.perf_counter() - start,
        "memory_before_bytes": before,
        "peak_memory_bytes": _peak_memory(),
        "estimated_memory_bytes": expected.memory_bytes,
        "disk_bytes": sum(file.stat().st_size for file in folder.glob("map.*")),
        "estimated_disk_bytes": expected.disk_bytes,
        # Of one row of windows: scores of all classes and their weights, float32.
        "accumulator_bytes": window * size[1] * (PIXELWISE_CLASSES + 1) * 4,
    }


def measure_pixelwise(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure maps of scenes of several sizes; raise DataError if a run is killed."""
    points = []
    for height, width in tqdm(args.pixelwise, unit="scene", disable=None):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            write_scene(Path(name) / "scene.tif", height, width)
            measured = in_fresh_process(_measure, args, (height, width), Path(name))
        if measured is None:
            raise DataError(f"the process mapping {height} x {width} pixels was killed")
        points.append({"height": height, "width": width} | measured)
    return points


def compare_workers(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Time maps by one process, alternating with maps by local workers; medians over rounds."""
    scene, checkpoint = args.scene, args.checkpoint
    if scene is None:
        write_scene(scene := folder / "scene.tif", *args.size)
    if checkpoint is None:
        model = build(args)
        content = {"meta": {"dataset_meta": model.dataset_meta}, "state_dict": model.state_dict()}
        torch.save(content, checkpoint := folder / "random.pth")
    if args.threads:
        torch.set_num_threads(args.threads)
    mapper = SceneMapper((args.config, checkpoint), device=args.device)
    options = dict(window=args.window, overlap=args.overlap, batch_size=args.batch, progress=False)
    counts = [0, *args.workers]  # 0: one process, without a cluster
    seconds = np.empty((args.repeats, len(counts), 2))
    bar = tqdm(total=args.repeats * len(counts), unit="map", disable=None)
    with tempfile.TemporaryDirectory(dir=folder) as name, bar:
        for row in seconds:
            for count, entry in zip(counts, row, strict=True):
                shared = dict(cluster="local", workers=count) if count else {}
                start = time.perf_counter()
                report = mapper.map(scene, f"{name}/map.tif", overwrite=True, **options, **shared)
                entry[:] = report.seconds, time.perf_counter() - start - report.seconds
                bar.update()
    ratios = np.median(seconds[:, :, 0] / seconds[:, :1, 0], axis=0)
    return [
        {"workers": count, "seconds": total, "start_seconds": start, "over_one_process": ratio}
        for count, (total, start), ratio in zip(
            counts, np.median(seconds, axis=0).tolist(), ratios.tolist(), strict=True
        )
    ]


def compare_regions(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time regions of the whole scene, file to file, alternating with SLIC in memory."""
    scene = args.scene
    if scene is None:
        write_scene(scene := folder / "scene.tif", *args.size)
    extractor = RegionExtractor(build(args), threads=args.threads)
    with open_raster(scene) as source:
        image = np.moveaxis(source.read(), 0, -1)
        pixel = metres_per_pixel(source.height, source.width, source.transform, source.crs)
    per_km2 = args.regions / (image.shape[0] * image.shape[1] * pixel**2 / 1e6)
    options = dict(window=args.window, batch_size=args.batch, progress=False, overwrite=True)
    slic, reports = [], []
    for _ in tqdm(range(args.repeats), unit="round", disable=None):
        start = time.perf_counter()
        slic_count = segmentation.slic(image, args.regions, max_num_iter=10, start_label=1).max()
        slic.append(time.perf_counter() - start)
        output = folder / "regions.parquet"
        reports.append(extractor.extract(scene, output, regions_per_km2=per_km2, **options))
    seconds = [report.seconds for report in reports]
    return {
        "regions": reports[0].regions,
        "superpixels": int(slic_count),
        "seconds": seconds,
        "merging_seconds": [report.merging_seconds for report in reports],
        "slic_seconds": slic,
        "over_slic": float(np.median(np.array(seconds) / np.array(slic))),
        "load": os.getloadavg()[0],
    }


@torch.inference_mode()
def compare_codes(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time codes of a scene, with errors and without, and what is decoded from them."""
    scene, model = folder / "scene.tif", build(args, "quantizer")
    write_scene(scene, *args.size)
    grid, quantizer = code_grid(model), model.quantizer
    window = args.window or DEFAULT_WINDOW
    batches = -(-len(WindowGrid(*args.size, window, 0)) // args.batch)
    side, margins = window // grid.stride, (grid.margin + grid.reach, grid.reach)
    shapes = [(side + 2 * margin,) * 2 for margin in margins]
    images = torch.randn(args.batch, model.in_channels, *(grid.stride * n for n in shapes[0]))
    images = images.to(args.device)
    indices = model.encode(images[..., : grid.stride * shapes[1][0], : grid.stride * shapes[1][1]])
    indices = indices.indices

    def bare(encodes: bool, decodes: bool) -> float:
        start = time.perf_counter()
        for _ in range(batches):
            if encodes:
                model.encode(images)
            if decodes:
                model.decode(quantizer.decode(indices, shapes[1]), shapes[1]).cpu()
        return time.perf_counter() - start

    codes, options = folder / "codes.tif", dict(window=args.window, batch_size=args.batch)
    options |= dict(progress=False, overwrite=True)
    runs: dict[str, tuple[tuple[bool, bool], Callable]] = {
        "encode": ((True, True), lambda: encode(model, scene, codes, **options)),
        "encode, no errors": (
            (True, False),
            lambda: encode(model, scene, codes, errors=False, **options),
        ),
        "decode": (
            (False, True),
            lambda: decode(codes, folder / "decoded.tif", model=model, **options),
        ),
    }
    seconds: dict[str, list] = {name: [] for name in runs}
    bare(True, True)
    for _ in tqdm(range(args.repeats), unit="round", disable=None):
        for name, (parts, run) in runs.items():
            before, start = bare(*parts), time.perf_counter()
            run()
            took = time.perf_counter() - start
            seconds[name].append(((before + bare(*parts)) / 2, took))
    return {
        name: {"bare_and_run_seconds": pairs, "rate": float(np.median([b / t for b, t in pairs]))}
        for name, pairs in seconds.items()
    }


def make_workers_table(points: list[dict[str, Any]]) -> PrettyTable:
    """Format times of maps by number of local workers."""
    table = PrettyTable(["workers", "map s", "start s", "of one process"])
    table.align = "r"
    for point in points:
        name = point["workers"] or "no cluster"
        cells = [f"{point[key]:.1f}" for key in ("seconds", "start_seconds")]
        table.add_row([name, *cells, f"{point['over_one_process']:.2f}"])
    return table


def make_memory_table(points: list[dict[str, Any]]) -> PrettyTable:
    """Format measured and estimated memory and disk by size."""
    columns = ["MiB", "estimated MiB", "accumulators MiB", "disk MiB", "estimated disk MiB"]
    table = PrettyTable(["height", "width", "s", *columns])
    table.align = "r"
    keys = ["peak_memory_bytes", "estimated_memory_bytes", "accumulator_bytes"]
    for point in points:
        cells = [f"{point[key] / 2**20:.0f}" for key in keys]
        cells += [f"{point[key] / 2**20:.1f}" for key in ("disk_bytes", "estimated_disk_bytes")]
        table.add_row([point["height"], point["width"], f"{point['seconds']:.1f}", *cells])
    return table


def make_table(points: list[dict[str, Any]]) -> PrettyTable:
    """Format time and memory of maps and slide inference by height."""
    table = PrettyTable(["height", "map s", "slide s", "map MiB", "slide MiB"])
    table.align = "r"
    for point in points:
        cells = []
        for key, scale, digits in (("seconds", 1, 1), ("peak_memory_bytes", 2**-20, 0)):
            for kind in ("map", "slide"):
                value = point[kind] and point[kind][key] * scale
                cells.append("-" if value is None else f"{value:.{digits}f}")
        table.add_row([point["height"], *cells])
    return table


def draw(points: list[dict[str, Any]]) -> np.ndarray:
    """Plot time and memory against the height of the scene, (H, W, 3) uint8."""
    figure = Figure(figsize=(10, 4), dpi=130, layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, scale, name in (
        (panels[0], "seconds", 1, "seconds"),
        (panels[1], "peak_memory_bytes", 2**-30, "peak memory of the process (GiB)"),
    ):
        for kind, label in (("map", "hook map, file to file"), ("slide", "mmseg slide, in memory")):
            done = [point for point in points if point[kind]]
            heights = [point["height"] for point in done]
            axes.plot(heights, [p[kind][key] * scale for p in done], "o-", label=label)
        axes.set_xlabel(f"rows of the scene ({points[0]['width']} columns)")
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure_to_rgb(figure)


@reports_errors
def main() -> None:
    args = parse_args()
    prepare_output(args, "json", "out")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report: dict[str, Any] = {
            "command": command_line(sys.argv),
            "config": relative_path(args.config),
            "rates": None if args.skip_rates or args.codes else compare_rates(args, folder),
            "device": device_name(args.device),
            "torch": torch.__version__,
        }
        report["sizes"] = compare_sizes(args, folder)
        report["pixelwise"] = measure_pixelwise(args, folder)
        report["workers"] = compare_workers(args, folder) if args.workers else []
        report["regions"] = compare_regions(args, folder) if args.regions else None
        report["codes"] = compare_codes(args, folder) if args.codes else {}
    if rates := report["rates"]:
        print(
            f"{rates['windows']} windows: bare model {np.median(rates['bare_seconds']):.1f} s, "
            f"map {np.median(rates['map_seconds']):.1f} s: "
            f"{100 * rates['map_rate_over_bare']:.1f} % of the bare rate (median over rounds); "
            f"half without data: {rates['half_empty_speed_up']:.2f} times as fast"
        )
    if report["sizes"]:
        print(make_table(report["sizes"]))
    if report["pixelwise"]:
        print(make_memory_table(report["pixelwise"]))
    if report["workers"]:
        print(make_workers_table(report["workers"]))
    if regions := report["regions"]:
        merging = np.divide(regions["merging_seconds"], regions["seconds"])
        print(
            f"{regions['regions']} regions {np.median(regions['seconds']):.1f} s, of which merging "
            f"{100 * np.median(merging):.0f} %; {regions['superpixels']} superpixels of SLIC "
            f"{np.median(regions['slic_seconds']):.1f} s: {regions['over_slic']:.2f} times as long "
            f"(median over rounds; load of the machine {regions['load']:.1f})"
        )
    for name, one in report["codes"].items():
        bare, took = np.median(one["bare_and_run_seconds"], axis=0)
        print(f"{name}: {took:.1f} s, networks alone {bare:.1f} s: {100 * one['rate']:.1f} %")
    write_json(args.json, report)
    if args.out:
        save_png(args.out, draw(report["sizes"]))
        print(relative_path(args.out))


if __name__ == "__main__":
    main()
