r"""Measure few-label classification: IoU of maps made from ten labelled regions per class.

The images of two lists are cut into regions. ``--draws`` times, ``--per-class`` regions of each
class are drawn from the first list, all regions of the second are classified with
`hook.apis.classify_regions`, and the pixels are compared with the masks: median and range of IoU
per class over the draws. The label of a region is the class of most of its pixels.

    python tools/analysis_tools/few_labels.py configs/hook/hook-fast-skip_vit-192x6_banepa-256.py \
        --model "EuroSAT" configs/hook/hook-fast_vit-192x6_eurosat-2k-64.py eurosat.pth 64 \
        --model "task" configs/hook/hook-fast-skip_vit-192x6_banepa-256.py banepa.pth 256

Each ``--model NAME CONFIG CHECKPOINT WINDOW`` has five rows: its regions by tokens, by seeds and by
bands, every seventh pixel by its bands, learned from up to 100 pixels of each labelled region, and
as many SLIC regions per window by bands (seeds and bands: means and standard deviations). Each
``--slots`` adds a row with the same regions by the codes of an autoencoder of slots: mean and
standard deviation of the quantised slots of their cells. The first
CONFIG names images and masks: its test dataset, with ``split`` replaced by each list, or by that of
its train, val or test dataset, such as a box in one scene:

    python tools/analysis_tools/few_labels.py configs/hook/demo_hook.py \
        --model demo configs/hook/demo_hook.py work_dirs/demo/checkpoint.pth 96 \
        --labels-from train --measured-on test

``--clicks N`` measures active learning instead, as in ``hook explore``: a simulated person labels
one region of each class, then one after the other up to N, either the least certain one (smallest
margin of the two best classes) or a random one. Mean IoU over the number of labels, with ``--out``
as a plot:

    python tools/analysis_tools/few_labels.py CONFIG --model NAME CONFIG CHECKPOINT 256 \
        --clicks 64 --out clicks.png

``--search K`` measures ``hook similar`` instead, without labels to learn from: of the K regions
most similar to a region of the second list, the share of its class, averaged over up to 300 regions
of each class and then over the classes, with and without whitening; chance is the share of the
class among all regions. Beside it percentiles of the similarities of these regions to all others.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import geopandas
import numpy as np
import shapely
import torch
from mmengine.structures import PixelData
from prettytable import PrettyTable
from tqdm import tqdm

from hook.apis import RegionIndex, classify_regions, load_model
from hook.cli.options import add_old_spelling
from hook.engine.configs import add_config_options, build_dataset, load_config, setup_environment
from hook.engine.profiling import command_line, prepare_output, write_json
from hook.errors import ConfigError, DataError, reports_errors
from hook.evaluation.confusion import class_scores
from hook.evaluation.homogeneity import connected_components
from hook.evaluation.superpixels import slic_regions
from hook.inference.regions import EMBEDDINGS, RegionPredictor
from hook.models import SlotAutoencoder
from hook.regions.few_labels import RegionClassifier, logistic_regression, margins
from hook.regions.plan import pool_seeds
from hook.regions.table import Regions
from hook.structures import ClsDataSample

PIXELS = "pixels"
_PER_REGION = 100  # of a labelled region, that a classifier of pixels learns from
_EVERY = 7  # of the pixels it is measured on
_QUERIES = 300  # of each class


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config with a test dataset of images and masks")
    parser.add_argument(
        "--model",
        nargs=4,
        action="append",
        required=True,
        metavar=("NAME", "CONFIG", "CHECKPOINT", "WINDOW"),
        help="regions of this model in windows of WINDOW pixels; may be repeated. The name of a "
        "published model takes the place of CONFIG, with - for CHECKPOINT",
    )
    parser.add_argument(
        "--slots",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "CONFIG", "CHECKPOINT"),
        help="autoencoder of slots whose codes stand for the regions; may be repeated",
    )
    parser.add_argument(
        "--labels-from",
        default="splits/train.txt",
        metavar="LIST",
        help="list of images, or train, val or test (default %(default)s)",
    )
    parser.add_argument("--measured-on", default="splits/test.txt", metavar="LIST")
    parser.add_argument("--num-tokens", type=int, metavar="K", help="default: that of each model")
    parser.add_argument(
        "--min-region-pixels",
        type=int,
        default=0,
        metavar="PIXELS",
        help="minimum area of a region",
    )
    add_old_spelling(parser, "--min-region", "--min-region-pixels")
    parser.add_argument("--per-class", type=int, default=10, help="labels per class (default 10)")
    parser.add_argument("--draws", type=int, default=20, help="random draws (default 20)")
    parser.add_argument("--clicks", type=int, metavar="N", help="measure over 1 to N labels")
    parser.add_argument(
        "--search", type=int, metavar="K", help="measure the K most similar regions"
    )
    parser.add_argument("--out", metavar="FILE", help="with --clicks: plot, such as clicks.png")
    parser.add_argument("--method", choices=("linear", "mean"), default="linear")
    parser.add_argument("--strength", type=float, default=1.0, help="weight of labels (linear)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--json", metavar="FILE", help="write the report here")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    add_config_options(parser)
    args = parser.parse_args()
    args.model = [
        (name, config if checkpoint == "-" else (config, checkpoint), side)
        for name, config, checkpoint, side in args.model
    ]
    return args


@dataclass
class Pool:
    """Regions of many windows, one row each."""

    embeddings: dict[str, list[np.ndarray]] = field(default_factory=dict)
    bands: list[np.ndarray] = field(default_factory=list)  # mean and standard deviation of each
    pixels: list[np.ndarray] = field(default_factory=list)  # of each class in the mask
    train: list[bool] = field(default_factory=list)
    drawn: list[np.ndarray] = field(default_factory=list)  # some pixels (n, C) of each
    tested: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(
        self,
        regions: np.ndarray,
        image: np.ndarray,
        truth: np.ndarray,
        number: int,
        train: bool,
        embeddings: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Add the regions (H, W) of a window, -1 for none, with its image (C, H, W) and mask."""
        known = regions >= 0
        values, truth = image[:, known].astype(np.float64), truth[known]
        used, flat = np.unique(regions[known], return_inverse=True)  # nodata may hide a region
        count = len(used)
        size = np.bincount(flat, minlength=count)
        mean = np.stack([np.bincount(flat, v, minlength=count) / size for v in values], 1)
        square = np.stack([np.bincount(flat, v * v, minlength=count) / size for v in values], 1)
        spread = np.sqrt(np.maximum(square - mean**2, 0))
        counts = np.stack(
            [np.bincount(flat, truth == k, minlength=count) for k in range(number)], 1
        )
        self.bands += list(np.concatenate([mean, spread], axis=1))
        self.pixels += list(counts)
        self.train += [train] * int(count)
        if embeddings is None:
            return
        order = np.argsort(flat, kind="stable")
        for rows in np.split(order, np.cumsum(size)[:-1]):
            some = rows[:: -(-len(rows) // _PER_REGION)] if train else rows[:0]
            self.drawn.append(values[:, some].T.astype(np.float32))
        if not train:
            self.tested.append((values[:, ::_EVERY].T.astype(np.float32), truth[::_EVERY]))
        for kind, vectors in embeddings.items():
            self.embeddings.setdefault(kind, []).extend(vectors)

    def table(self, embedding: str | None = None) -> geopandas.GeoDataFrame:
        """Return the regions in the layout of `hook regions`, with placeholder geometries."""
        bands, rows = np.array(self.bands), np.arange(len(self.bands))
        half = bands.shape[1] // 2
        columns: dict[str, Any] = {f"mean_{i}": bands[:, i] for i in range(half)}
        columns |= {f"std_{i}": bands[:, half + i] for i in range(half)}
        if embedding is not None:
            columns["embedding"] = list(np.array(self.embeddings[embedding], np.float32))
        return geopandas.GeoDataFrame(
            columns, geometry=shapely.box(rows, 0, rows + 1, 1), crs="EPSG:3857"
        )


def read_windows(config: Any, split: str, side: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield image (C, side, side), validity and class mask of each window of a list's images."""
    loader = config.get(f"{split}_dataloader")
    part = loader.dataset.get("split") if loader else split
    dataset = build_dataset(config, "test", lambda data: data | dict(split=part, chip_size=side))
    if not hasattr(dataset, "load_sample"):
        raise ConfigError(
            "the test dataset is not a folder of rasters",
            expected="test_dataloader.dataset of type hook.GeoTIFFFolder",
            found=type(dataset).__name__,
        )
    for index in tqdm(range(len(dataset)), unit="window", desc=split, disable=None, leave=False):
        sample = dataset.load_sample(index)
        if "gt_seg_map" not in sample:
            raise DataError(f"{sample['img_path']}: no mask", remedy="list images with masks")
        yield sample["img"].transpose(2, 0, 1), sample["valid"] > 0, sample["gt_seg_map"]


class SlotVectors:
    """Quantised slots of the pixels of images.

    Args:
        name: Name of the autoencoder.
        source: Its config and checkpoint.
        device: Its device.

    Raises:
        ConfigError: It is another model.
    """

    def __init__(self, name: str, source: tuple[str, str], device: str) -> None:
        self.name, self.model = f"codes ({name})", load_model(source, device=device)
        if not isinstance(self.model, SlotAutoencoder):
            raise ConfigError(
                f"--slots {name}: {source[0]} has no slots",
                expected="hook.SlotAutoencoder",
                found=type(self.model).__name__,
            )

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors of the cells of an image (C, H, W), and the cell of each pixel (H, W)."""
        sample = ClsDataSample()
        sample.valid_mask = PixelData(data=torch.from_numpy(valid.astype(np.uint8))[None])
        data = dict(inputs=[torch.from_numpy(image)], data_samples=[sample])
        data = self.model.data_preprocessor(data, False)
        (found,) = self.model.predict(data["inputs"], data["data_samples"])
        ids, slots = found.token_ids, found.latents[..., 0].T
        vectors = (slots[ids.clamp(min=0)] * (ids >= 0)[..., None]).flatten(0, 1)
        rows, columns = (np.arange(n) // self.model.stride for n in valid.shape)
        return vectors.float().cpu().numpy(), rows[:, None] * ids.shape[1] + columns


def cut(
    config: Any, model: Any, side: int, args: argparse.Namespace, slots: Sequence[SlotVectors] = ()
) -> tuple[Pool, Pool]:
    """Cut all images into regions of a model and into as many SLIC regions."""
    number = len(config.metainfo["classes"])
    predict, perceive = (
        RegionPredictor(model, args.num_tokens, args.min_region_pixels, kind) for kind in EMBEDDINGS
    )
    tokens, slic = Pool(), Pool()
    for split in (args.labels_from, args.measured_on):
        train = split == args.labels_from
        for image, valid, truth in read_windows(config, split, side):
            if not valid.any():
                continue
            window = np.ascontiguousarray(image)[None].astype(np.float32), valid[None]
            answer, seeds = predict(*window), perceive(*window)
            token_ids = np.where(valid, answer.token_ids[0], -1)
            parts = connected_components(token_ids)
            _, first, labels = np.unique(parts[valid], return_index=True, return_inverse=True)
            seed_ids = seeds.seed_of_pixel[0][valid]
            embeddings = {
                "tokens": answer.embeddings[0][token_ids[valid][first]],
                "seeds": pool_seeds(seeds.seeds[0], seed_ids, labels, len(first)),
            }
            for one in slots:
                vectors, cells = one(window[0][0], valid)
                embeddings[one.name] = pool_seeds(vectors, cells[valid], labels, len(first))
            tokens.add(parts, image, truth, number, train, embeddings)
            rgb = image.transpose(1, 2, 0)
            scale = 255 if image.dtype == np.uint8 else max(float(image.max()), 1e-9)
            others = slic_regions(rgb / scale, int(parts.max()) + 1)
            slic.add(np.where(valid, others, -1), image, truth, number, train)
    return tokens, slic


def measure(
    pool: Pool, features: str, classes: list[str], args: argparse.Namespace
) -> dict[str, Any]:
    """Draw labels, classify and compare, ``--draws`` times.

    Returns:
        ``iou``: (draws, K) IoU of each class in percent; ``labels``: K numbers of candidates.
    """
    kind = None if features in ("bands", PIXELS) else features
    table, pixels, train = pool.table(kind), np.array(pool.pixels), np.array(pool.train)
    drawn_from = candidates(pixels, train, classes, args.per_class, args.labels_from)
    rng, found = np.random.default_rng(args.seed), []
    for _ in range(args.draws):
        rows = [rng.choice(rows, args.per_class, replace=False) for rows in drawn_from]
        if features == PIXELS:
            found.append(iou_of_pixels(pool, rows, args.strength))
            continue
        labels = {int(row): classes[k] for k, drawn in enumerate(rows) for row in drawn}
        options = dict(method=args.method, strength=args.strength)
        by = "bands" if kind is None else "embedding"
        predicted = classify_regions(table, labels, features=by, **options)
        names = predicted["class_name"].to_numpy()[~train]
        found.append(iou(names, pixels[~train], classes))
    return {"iou": np.array(found), "labels": [len(rows) for rows in drawn_from]}


def candidates(
    pixels: np.ndarray, train: np.ndarray, classes: list[str], needed: int, source: str
) -> list[np.ndarray]:
    """Return the regions of each class, that of most of their pixels, which may be labelled."""
    majority = np.where(pixels.sum(axis=1) > 0, pixels.argmax(axis=1), -1)
    rows = [np.flatnonzero(train & (majority == k)) for k in range(len(classes))]
    for name, of in zip(classes, rows, strict=True):
        if len(of) < needed:
            raise DataError(
                f"too few regions of class {name} to label",
                expected=f"{needed} in {source}",
                found=len(of),
                remedy="lower --per-class, or list more images",
            )
    return rows


def iou_of_pixels(pool: Pool, rows: list[np.ndarray], strength: float) -> np.ndarray:
    """Return the IoU (K,) in percent of pixels classified by their bands alone.

    A logistic regression, as of regions, learns from the pixels of the labelled regions (K rows).
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    of = [np.concatenate([pool.drawn[row] for row in drawn]) for drawn in rows]
    labels = np.repeat(np.arange(len(rows)), [len(part) for part in of])
    values = np.concatenate(of)
    model = make_pipeline(StandardScaler(), logistic_regression(strength, values.shape[1]))
    model.fit(values, labels)
    matrix = np.zeros((len(rows), len(rows)), np.int64)  # predicted, true: as :func:`iou` has it
    for values, truth in pool.tested:
        predicted, known = model.predict(values), truth < len(rows)
        np.add.at(matrix, (predicted[known], truth[known]), 1)
    return 100 * class_scores(matrix)["iou"]


def iou(names: np.ndarray, pixels: np.ndarray, classes: list[str]) -> np.ndarray:
    """Return the IoU (K,) in percent of regions (R,) of named classes with pixels (R, K)."""
    matrix = np.stack([pixels[names == name].sum(axis=0) for name in classes])
    return 100 * class_scores(matrix)["iou"]


def click(
    pool: Pool, features: str, order: str, classes: list[str], args: argparse.Namespace
) -> np.ndarray:
    """Label one region after the other, ``--draws`` times.

    Args:
        pool: The regions.
        features: ``"tokens"``, ``"seeds"`` or ``"bands"``.
        order: ``"uncertain"``, the region with the smallest margin next, or ``"random"``.
        classes: K names.
        args: Options.

    Returns:
        (draws, N - K + 1, K) IoU in percent with K to N labels.
    """
    kind = None if features == "bands" else features
    pixels, train = np.array(pool.pixels), np.array(pool.train)
    by = "bands" if kind is None else "embedding"
    table = Regions.from_table(pool.table(kind))
    classifier = RegionClassifier(table, args.method, by, args.strength)
    first = candidates(pixels, train, classes, 1, args.labels_from)
    label_of = np.full(len(train), -1)
    for k, rows in enumerate(first):
        label_of[rows] = k
    rng, found = np.random.default_rng(args.seed), []
    for _ in range(args.draws):
        labels = {int(rng.choice(rows)): classes[k] for k, rows in enumerate(first)}
        left = rng.permutation(np.flatnonzero((label_of >= 0) & classifier.usable))
        curve = []
        while True:
            names, scores = classifier.scores(labels)
            chosen = np.array(names)[np.nan_to_num(scores).argmax(axis=1)]
            curve.append(iou(chosen[~train], pixels[~train], classes))
            left = left[~np.isin(left, list(labels))]
            if len(labels) == args.clicks or not len(left):
                break
            row = left[margins(scores[left]).argmin() if order == "uncertain" else 0]
            labels[int(row)] = classes[label_of[row]]
        curve += curve[-1:] * (args.clicks - len(classes) + 1 - len(curve))
        found.append(curve)
    return np.array(found)


def search(pool: Pool, features: str, whiten: bool, classes: list[str], args: argparse.Namespace):
    """Search regions like each of a class.

    Returns:
        ``precision`` and ``chance`` of each class in percent, and ``similarity``, its 5th, 50th and
        95th percentile over all pairs.
    """
    tested = ~np.array(pool.train)
    table = pool.table(features)[tested].reset_index(drop=True)
    index = RegionIndex(table, whiten=whiten)
    pixels = np.array(pool.pixels)[tested]
    kind = np.where(pixels.sum(axis=1) > 0, pixels.argmax(axis=1), -1)
    rng, precision, similarity = np.random.default_rng(args.seed), [], []
    for k in range(len(classes)):
        rows = np.flatnonzero(kind == k)
        shares = []
        for row in rng.permutation(rows)[:_QUERIES]:
            found = index.by_id(int(row), k=len(table))
            similarity.append(np.percentile(found.similarity, (5, 50, 95)))
            near = kind[found.region_id.to_numpy()]
            shares.append(np.mean(near[near >= 0][: args.search] == k))
        precision.append(100 * float(np.mean(shares)) if shares else np.nan)
    chance = [100 * float(np.mean(kind[kind >= 0] == k)) for k in range(len(classes))]
    return dict(precision=precision, chance=chance, similarity=np.mean(similarity, axis=0).tolist())


def print_search(config: Any, classes: list[str], args: argparse.Namespace) -> list[dict]:
    """Print and return the table of ``--search``."""
    table = PrettyTable(
        ["regions", "by", "whitened", "of its class", *classes, "5th, 50th, 95th percentile"]
    )
    rows = []
    for name, source, side in args.model:
        model = load_model(source, device=args.device)
        pool, _ = cut(config, model, int(side), args)
        for features in EMBEDDINGS:
            for whiten in (True, False):
                found = search(pool, features, whiten, classes, args)
                rows.append(dict(regions=name, features=features, whitened=whiten) | found)
                cells = [
                    f"{share:.1f} ({chance:.1f})"
                    for share, chance in zip(found["precision"], found["chance"], strict=True)
                ]
                mean = f"{np.nanmean(found['precision']):.1f}"
                spread = ", ".join(f"{one:.2f}" for one in found["similarity"])
                yes = "yes" if whiten else "no"
                table.add_row([f"HOOK ({name})", features, yes, mean, *cells, spread])
    print(f"of the {args.search} most similar regions, percent of its class (chance)")
    print(table)
    return rows


def plot_clicks(rows: list[dict[str, Any]], path: str) -> None:
    """Plot mean IoU over the number of labels: median, and the middle half of the draws."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    colours: dict[str, Any] = {}
    for row in rows:
        name = f"{row['regions']}, {row['features']}"
        colour = colours.setdefault(name, f"C{len(colours)}")
        low, median, high = np.percentile(np.mean(row["draws"], axis=2), (25, 50, 75), axis=0)
        style = "-" if row["order"] == "uncertain" else ":"
        axes.plot(row["labels"], median, style, color=colour, label=f"{name}, {row['order']}")
        axes.fill_between(row["labels"], low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set(xlabel="labelled regions", ylabel="mean IoU, percent", xscale="log")
    axes.set_xticks(ticks := [n for n in (2, 4, 8, 16, 32, 64, 128) if n in rows[0]["labels"]])
    axes.set_xticklabels(ticks)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


@reports_errors
def main() -> None:
    args = parse_args()
    if min(args.per_class, args.draws) < 1:
        raise ConfigError("--per-class and --draws", expected="1 or more")
    prepare_output(args, "json")
    setup_environment()
    config = load_config(args.config, args.cfg_options)
    classes = list(config.metainfo["classes"])
    if args.clicks is not None and args.clicks < len(classes):
        raise ConfigError("--clicks", expected=f"{len(classes)} or more", found=args.clicks)
    for name, _, side in args.model:
        if not side.isdigit() or int(side) < 1:
            raise ConfigError(f"--model {name}: window", expected="pixels", found=side)
    if args.search is not None:
        if args.search < 1:
            raise ConfigError("--search", expected="1 or more", found=args.search)
        if args.slots:
            raise ConfigError("--slots: --search compares the embeddings of regions only")
        rows = print_search(config, classes, args)
        if args.json:
            head = {"command": command_line(sys.argv), "classes": classes}
            write_json(args.json, {**head, "rows": rows})
        return
    steps = [n for n in (2, 4, 8, 16, 32, 64, 128, 256) if len(classes) <= n <= (args.clicks or 0)]
    columns = [f"IoU {name}" for name in classes] if not args.clicks else ["order"]
    table = PrettyTable(["regions", "by", "in test", *columns, *(f"{n} labels" for n in steps)])
    table.align = "r"
    table.align["regions"] = table.align["by"] = "l"
    report = []
    slots = [SlotVectors(name, tuple(source), args.device) for name, *source in args.slots]
    kinds = *EMBEDDINGS, *(one.name for one in slots), "bands"
    for name, source, side in args.model:
        model = load_model(source, device=args.device)
        tokens, slic = cut(config, model, int(side), args, slots)
        for regions, pool, features in (
            *((f"HOOK ({name})", tokens, kind) for kind in kinds),
            *([("none", tokens, PIXELS)] if not args.clicks else []),
            (f"SLIC, as many as {name}", slic, "bands"),
        ):
            number = len(pool.train) - sum(pool.train)
            row = {"regions": regions, "features": features, "number": number, "window": int(side)}
            for order in ("uncertain", "random") if args.clicks else (None,):
                if order is None:
                    found = measure(pool, features, classes, args)["iou"]
                    cells = spread(found)
                else:
                    found = click(pool, features, order, classes, args)
                    numbers = range(len(classes), args.clicks + 1)
                    cells = [
                        order,
                        *spread(found.mean(axis=2)[:, [numbers.index(n) for n in steps]]),
                    ]
                    row = row | {"order": order, "labels": list(numbers)}
                table.add_row([regions, features, number, *cells])
                median = np.median(found, axis=0).tolist()
                report.append(row | {"median": median, "draws": np.round(found, 2).tolist()})
    labels = f"up to {args.clicks} labels" if args.clicks else f"{args.per_class} labels per class"
    print(
        f"{labels} from {args.labels_from}, measured on {args.measured_on}; median [range] over "
        f"{args.draws} draws; {args.method}" + ("; mean IoU" if args.clicks else "")
    )
    print(table)
    if args.json:
        head = {"command": command_line(sys.argv), "classes": classes}
        write_json(args.json, {**head, "rows": report})
    if args.clicks and args.out:
        plot_clicks(report, args.out)


def spread(found: np.ndarray) -> list[str]:
    """Return median and range of the columns of (draws, n)."""
    of = np.percentile(found, (50, 0, 100), axis=0).T
    return [f"{m:.1f} [{a:.1f}, {b:.1f}]" for m, a, b in of]


if __name__ == "__main__":
    main()
