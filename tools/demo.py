"""Train, evaluate, map and plot in one run, as in ``make demo``.

Without ``--data`` a demo scene is generated; ``--data FOLDER`` uses a folder of your own::

    FOLDER/images/*.tif      GeoTIFFs with the same bands
    FOLDER/masks/*.tif       class indexes, one mask per image (same name or same extent);
                             or one vector file of the second class
    FOLDER/classes.txt       optional: one class per line, ``name`` or ``name #rrggbb``
    FOLDER/splits/{train,val,test}.txt    optional: names of images

Class names are read from ``classes.txt``, else from the mask's category names or ``classes`` tag,
else they are the values found; colours from ``classes.txt``, else from the mask's colour table.
Statistics are computed on the training part. Without ``splits/``, three or more images are divided
along the longer axis of the region (60 / 15 / 25 %), fewer by area.

The exit status of the demo scene is 1 unless the model's test mIoU is 20 points above a
majority-class map and not below a per-pixel nearest-centroid classifier. With ``--data`` this
comparison is printed and sets the exit status only with ``--strict``.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
import rasterio
import rasterio.shutil

from hook.datasets.files import IGNORE_INDEX
from hook.datasets.holdout import split_folder
from hook.datasets.inspection import inspect_folder
from hook.engine.fitting import build_cover, fit_data, measure, set_statistics
from hook.engine.training import prepare_work_dir, train_config
from hook.errors import DataError, reports_errors
from hook.geo.measure import metres_per_pixel
from hook.geo.raster import open_raster, quiet_open
from hook.geo.staging import atomic_write
from hook.progress import progress_bar

LEAD = 20.0  # points of mIoU above the majority-class map
TITLES = {"HookTokenizer": "HOOK", "PatchEmbedTokenizer": "Patch embedding"}
VIEW = 1536  # maximum side of the panels of the overview in pixels
# Cost of a merge up to which seeds become the regions shown. On the demo scene, with 20 a field, a
# wood, a pond, a street or a roof is one region or a few; with 5 the crowns of a wood fall apart,
# with 60 neighbouring fields are one.
SCALE = 20.0


def chip_arrays(sample: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image (C, H, W), labels (H, W) and validity (H, W) of a packed sample."""
    labels = sample["data_samples"].gt_sem_seg.data[0].numpy()
    valid = sample["data_samples"].valid_mask.data[0].numpy().astype(bool)
    return sample["inputs"].numpy(), labels, valid


# ------------------------------------------------------------------------------------------ the run


def fit_baselines(cfg):
    """Fit both baselines on the training part."""
    from hook.evaluation.baselines import MajorityClass, NearestCentroid

    dataset = build_cover(cfg, "train")
    count, bands = cfg.model.decode_head.num_classes, cfg.model.backbone.tokenizer.in_channels
    majority, centroid = MajorityClass(count), NearestCentroid(count, bands)
    for sample in progress_bar(dataset, desc="training data", unit="chip", leave=False):
        image, labels, valid = chip_arrays(sample)
        centroid.partial_fit(image, labels, valid)
        majority.partial_fit(np.where(valid, labels, IGNORE_INDEX))
    return majority, centroid


def evaluate(cfg, model, majority, centroid) -> dict[str, dict]:
    """Score model and baselines on the test part."""
    import torch

    from hook.evaluation.baselines import segmentation_scores
    from hook.evaluation.confusion import confusion_matrix

    dataset = build_cover(cfg, "test")
    count = cfg.model.decode_head.num_classes
    names = ("model", "nearest_centroid", "majority_class")
    matrices = {name: np.zeros((count, count), np.int64) for name in names}
    size = cfg.test_dataloader.batch_size
    starts = range(0, len(dataset), size)
    for start in progress_bar(starts, desc="test", unit="batch", leave=False):
        samples = [dataset[k] for k in range(start, min(start + size, len(dataset)))]
        batch = {key: [s[key] for s in samples] for key in ("inputs", "data_samples")}
        with torch.no_grad():
            results = model.test_step(batch)
        for sample, result in zip(samples, results, strict=True):
            image, labels, valid = chip_arrays(sample)
            truth = np.where(valid, labels, IGNORE_INDEX)
            predictions = {
                "model": result.pred_sem_seg.data[0].numpy(),
                "nearest_centroid": centroid.predict(image),
                "majority_class": majority.predict(image),
            }
            for name, prediction in predictions.items():
                matrices[name] += confusion_matrix(truth, prediction, count)
    if not matrices["model"].any():
        raise DataError(
            "the test part has no labelled pixel",
            expected="labels in the test images",
            found="none",
            remedy="define the split in splits/train.txt, val.txt and test.txt",
        )
    return {
        name: {**segmentation_scores(m), "confusion_matrix": m.tolist()}
        for name, m in matrices.items()
    }


def table(scores: dict[str, dict], classes: list[str], title: str) -> str:
    """Format the scores of model and baselines as text."""
    rows = [("", "mIoU", "pixel acc.", *classes)]
    labels = {"model": title, "nearest_centroid": "nearest centroid, per pixel"}
    labels |= {"majority_class": "majority class everywhere"}
    for name, label in labels.items():
        s = scores[name]
        cells = [s["mIoU"], s["aAcc"], *s["IoU"]]
        rows.append((label, *["-" if np.isnan(v) else f"{v:.1f}" for v in cells]))
    widths = [max(len(r[k]) for r in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if k == 0 else c.rjust(w)
            for k, (c, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:]])


@dataclass
class View:
    """The part of a scene shown in the overview; token -1 for none."""

    image: np.ndarray
    valid: np.ndarray
    truth: np.ndarray
    tokens: np.ndarray
    window: tuple[int, int, int, int]
    bounds: tuple[float, float, float, float]
    frame: tuple[int, int, int, int] | None
    metres: float | None


def read_view(cfg, model, test_set, scene: int) -> View:
    """Read image, truth and, unless it has regions, the model's tokens around the test part."""
    import torch

    info = test_set.scenes[scene]
    row, col, height, width = test_set.sampling_windows[scene]
    full_h, full_w = info.grid.height, info.grid.width
    h, w = min(full_h, VIEW), min(full_w, VIEW)
    top = int(np.clip(row + height / 2 - h / 2, 0, full_h - h))
    left = int(np.clip(col + width / 2 - w / 2, 0, full_w - w))
    a, _, c, _, e, f = info.grid.transform
    xs, ys = sorted((c + a * left, c + a * (left + w))), sorted((f + e * top, f + e * (top + h)))
    bounds = xs[0], ys[0], xs[1], ys[1]
    area = None if (h, w) == (full_h, full_w) else dict(bounds=bounds, crs=info.grid.crs)
    options = cfg.test_dataloader.dataset
    masks = str(Path(options.get("data_root") or "", options.masks))
    dataset = build_cover(cfg, "test", images=[info.path], masks=masks, data_root="", split=area)
    top, left, h, w = dataset.sampling_windows[0]
    view = View(
        np.zeros((cfg.model.backbone.tokenizer.in_channels, h, w), np.float32),
        np.zeros((h, w), bool),
        np.full((h, w), IGNORE_INDEX, np.int64),
        np.full((h, w), -1, np.int64),
        (top, left, h, w),
        bounds,
        (row - top, col - left, height, width) if (height, width) != (full_h, full_w) else None,
        metres_per_pixel(full_h, full_w, info.grid.affine, info.grid.crs),
    )
    size = cfg.test_dataloader.batch_size
    starts = range(0, len(dataset), size)
    for start in progress_bar(starts, desc="overview", unit="batch", leave=False):
        samples = [dataset[k] for k in range(start, min(start + size, len(dataset)))]
        tokens = [None] * len(samples)
        if not model.backbone.has_regions:
            with torch.no_grad():
                batch = {key: [s[key] for s in samples] for key in ("inputs", "data_samples")}
                found = model.tokenize(**model.data_preprocessor(batch, False))
            tokens = [one.token_map() for one in found]
        for sample, token_map in zip(samples, tokens, strict=True):
            _paste(view, sample, token_map)
    return view


def read_regions(model, source: Path, path: Path, view: View) -> int:
    """Write the regions of the view, cut by no window, add them to it, and return their number."""
    from rasterio.features import rasterize

    from hook.apis import RegionExtractor
    from hook.geo.vector import read_vectors

    options = dict(scale=SCALE, batch_size=8, overwrite=True)
    RegionExtractor(model).extract(source, path, aoi=view.bounds, **options)
    regions = read_vectors(path)
    top, left, h, w = view.window
    with open_raster(source) as src:
        transform = src.window_transform(rasterio.windows.Window(left, top, w, h))
    shapes = zip(regions.geometry, regions.token_id, strict=True)
    view.tokens = rasterize(shapes, (h, w), fill=-1, transform=transform, dtype="int32")
    return len(regions)


def _paste(view: View, sample: dict, tokens: np.ndarray | None) -> None:
    """Paste a chip into the view without its padding."""
    image, labels, valid = chip_arrays(sample)
    top, left, h, w = view.window
    row, col = sample["data_samples"].geo["window"][:2]
    y, x = row - top, col - left
    rows, cols = slice(y, min(y + labels.shape[0], h)), slice(x, min(x + labels.shape[1], w))
    part = slice(0, rows.stop - y), slice(0, cols.stop - x)
    view.image[:, rows, cols] = image[:, part[0], part[1]]
    view.valid[rows, cols] = valid[part]
    view.truth[rows, cols] = np.where(valid, labels, IGNORE_INDEX)[part]
    if tokens is not None:
        view.tokens[rows, cols] = np.where(valid, tokens, -1)[part]


def draw(path: Path, view: View, map_path: Path, meta: dict, scores: dict, texts: dict) -> None:
    """Draw the overview."""
    from hook.visualization.drawing import render_labels, render_tokens, stretch_to_rgb
    from hook.visualization.overview import Panel, draw_overview

    top, left, h, w = view.window
    with open_raster(map_path) as src:
        prediction = src.read(1, window=rasterio.windows.Window(left, top, w, h))
    rgb = stretch_to_rgb(view.image, meta["bands"], view.valid)
    prediction = np.where(view.valid, prediction, IGNORE_INDEX)
    note = f"mIoU {scores['model']['mIoU']:.1f} % on the test part"
    framed = dict(frame=view.frame, frame_label="test part, never trained on" if view.frame else "")
    # Regions may be a few pixels wide: borders would hide them.
    tokens = render_tokens(view.tokens, rgb, alpha=0.75, borders=False)
    panels = [
        Panel("Image", rgb, **framed),
        Panel("Truth", render_labels(view.truth, meta["palette"])),
        Panel("Prediction", render_labels(prediction, meta["palette"]), note, **framed),
        Panel("Token map", tokens, texts["tokens"]),
    ]
    texts = (texts["title"], texts["subtitle"], texts["attribution"])
    draw_overview(path, panels, meta["classes"], meta["palette"], view.metres, *texts)


# ------------------------------------------------------------------------------------- the command


def log(text: str) -> None:
    """Print a line without buffering, so that logs stay in order."""
    print(text, flush=True)


def georeferenced(scene, out: Path) -> Path:
    """Return the file of a scene, or a VRT that adds the georeference of its mask."""
    path = Path(scene.path)
    with open_raster(path) as src:
        if src.crs is not None:
            return path
    vrt = out / "scene.vrt"
    vrt.unlink(missing_ok=True)
    rasterio.shutil.copy(str(path.resolve()), str(vrt), driver="VRT")
    with quiet_open(vrt, "r+") as dst:
        dst.crs = rasterio.crs.CRS.from_wkt(scene.grid.crs)
        dst.transform = scene.grid.affine
    return vrt


def _make_scene(out_dir: Path, seed: int):
    """Run the generator, which is not part of the package."""
    import importlib.util

    script = REPO / "data" / "make_demo_scene.py"
    spec = importlib.util.spec_from_file_location("make_demo_scene", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.make_demo_scene(out_dir, seed=seed)


def _plain(value):
    """Replace NaN (the IoU of a class that does not occur) with None for JSON."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text)


def verdict(missed: list[str], required: bool) -> tuple[int, list[str]]:
    """Return the exit status and the last lines, given the margins that were missed."""
    if not missed:
        margins = f"{LEAD:g} points above the majority class, not below the nearest centroid"
        return 0, [f"passed: {margins}"]
    status = "failed" if required else "warning"
    return int(required), [f"{status}: {sentence}" for sentence in missed]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from hook.engine.configs import add_config_options

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="your folder with images/ and masks/")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"))
    parser.add_argument("--config", default=str(REPO / "configs" / "hook" / "demo_hook.py"))
    parser.add_argument(
        "--scene-dir", type=Path, default=REPO / "data" / "demo", help="folder of the demo scene"
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 also with --data")
    parser.add_argument(
        "--attribution", default="", help="source of your imagery, for the overview"
    )
    add_config_options(parser)
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    start = time.monotonic()
    seconds: dict[str, float] = {}
    clock = [start]

    def record_time(name: str) -> None:
        now = time.monotonic()
        seconds[name], clock[0] = round(now - clock[0], 1), now

    embedded = args.data is None
    if embedded:
        log("[1/6] Generating the demo scene")
        _make_scene(args.scene_dir, seed=0)
        folder = None
        log(f"      {args.scene_dir}")
    else:
        log(f"[1/6] Inspecting {args.data}")
        folder = inspect_folder(args.data.resolve())
        split_folder(folder, args.data.resolve())
        log(f"      {len(folder.images)} images, bands {', '.join(map(str, folder.bands))}")
        log(f"      classes {', '.join(folder.classes)}; split {folder.how}")
    record_time("data")

    from mmengine.registry import init_default_scope

    from hook.apis import SceneMapper, load_model
    from hook.engine.configs import load_config
    from hook.evaluation.baselines import check_margins

    cfg = load_config(args.config, args.cfg_options)
    init_default_scope(cfg.get("default_scope", "mmseg"))
    if folder is None:
        for split in ("train", "val", "test"):
            cfg[f"{split}_dataloader"].dataset.data_root = str(args.scene_dir)
    else:
        fit_data(cfg, folder)
        set_statistics(cfg, *measure(cfg, folder.how))
    out = prepare_work_dir(args.work_dir, overwrite=True)
    cfg.work_dir = str(out)

    log("[2/6] Fitting the baselines: majority class, nearest centroid")
    majority, centroid = fit_baselines(cfg)
    record_time("baselines")

    kind = cfg.model.backbone.tokenizer.type.rpartition(".")[2]
    name = TITLES.get(kind, kind)
    log(f"[3/6] Training {name}, {cfg.train_cfg.max_iters} iterations; log in {out}")
    trained = train_config(cfg, best=True)
    record_time("training")

    log("[4/6] Evaluating on the test part")
    model = load_model((trained.config, trained.checkpoint))
    scores = evaluate(cfg, model, majority, centroid)
    meta = model.dataset_meta
    missed = check_margins(
        *[scores[k]["mIoU"] for k in ("model", "majority_class", "nearest_centroid")], lead=LEAD
    )
    record_time("evaluation")

    test_set = build_cover(cfg, "test")
    sizes = [h * w for _, _, h, w in test_set.sampling_windows]
    scene = int(np.argmax(sizes))
    source = georeferenced(test_set.scenes[scene], out)
    log(f"[5/6] Mapping {test_set.scenes[scene].path}")
    outputs = dict(vectors=out / "regions.gpkg", overwrite=True)
    report = SceneMapper(model).map(source, out / "map.tif", batch_size=8, **outputs)
    record_time("mapping")

    log("[6/6] Drawing the overview")
    count = model.backbone.tokenizer.num_tokens
    shown = "the demo scene" if embedded else Path(test_set.scenes[scene].path).name
    texts = dict(
        title=f"{name} on {shown}",
        subtitle=f"mIoU {scores['model']['mIoU']:.1f} %; nearest centroid "
        f"{scores['nearest_centroid']['mIoU']:.1f} %, majority class "
        f"{scores['majority_class']['mIoU']:.1f} %",
        tokens=f"{count} tokens in each window of {cfg.model.backbone.tokenizer.img_size} pixels",
        attribution="Synthetic scene by data/make_demo_scene.py" if embedded else args.attribution,
    )
    view = read_view(cfg, model, test_set, scene)
    files = ["overview.png", "map.tif", "regions.gpkg", "metrics.json", "checkpoint.pth"]
    if model.backbone.has_regions:
        files.insert(3, "tokens.gpkg")
        count = read_regions(model, source, out / "tokens.gpkg", view)
        texts["tokens"] = f"{count} tokens, each one region"
    draw(out / "overview.png", view, out / "map.tif", meta, scores, texts)
    record_time("overview")

    metrics = dict(
        config=os.path.relpath(args.config, REPO),
        data="demo scene, seed 0" if embedded else str(args.data),
        split="by area: west, middle, east" if embedded else folder.how,
        classes=list(meta["classes"]),
        **scores,
        bar=dict(above_majority_class=LEAD, not_below_nearest_centroid=True, missed=missed),
        passed=not missed,
        iterations=cfg.train_cfg.max_iters,
        map=dict(
            scene=str(test_set.scenes[scene].path), windows=report.windows, pixels=report.pixels
        ),
        seconds=seconds | dict(total=round(time.monotonic() - start, 1)),
    )
    _write_text(out / "metrics.json", json.dumps(_plain(metrics), indent=2) + "\n")

    log("")
    log(table(scores, meta["classes"], name))
    log("")
    for file in files:
        log(f"      {out / file}")
    log(f"      {time.monotonic() - start:.0f} s in total")
    status, lines = verdict(missed, required=embedded or args.strict)
    for line in lines:
        log(line)
    return status


if __name__ == "__main__":
    sys.exit(main())
