r"""Compare codecs of tiles by what is left of images at the bytes of their files.

Any number of autoencoders, each a CONFIG and a CHECKPOINT, decode the test images of ``--data``
(default: of the first config), and today's image codecs do it in as many bytes (or ``--rates``):

    python tools/analysis_tools/tokenizer_benchmark.py CONFIG CHECKPOINT CONFIG CHECKPOINT \
        --names vq rq --out work_dirs/benchmark

Images of one size are compared as mosaics of up to 400, each one file: small files would compare
headers. Codes are packed with a table of frequencies, which is part of the file, and decoded from
it; an autoencoder sees each tile alone. Image codecs run at their slow settings, and come as near
to the bytes as their quality can be set; no point is taken at the lowest quality. ``--scene`` adds
files that are coded as a whole.

``--out`` gets ``table.csv`` and ``table.md``, a picture of the worst images of the first codec and
a plot of PSNR against bits per pixel. Scores are means over the images with the 95 % interval of a
bootstrap over them; ``PSNR of all`` is that of the squared error of all pixels. A published
classifier with the classes of the data reads decoded images; ``change`` is its accuracy against
that on the originals. ``--probe`` fits a logistic regression to the mean latents of training
images, and gives its accuracy on those of the test images.
"""

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from hook.apis import Classifier
from hook.checkpoint import load_weights
from hook.engine.configs import (
    add_config_options,
    as_list,
    build_dataset,
    load_config,
    make_folder,
    setup_environment,
)
from hook.engine.devices import to_device
from hook.engine.models import build_model
from hook.engine.profiling import device_name
from hook.errors import ConfigError, reports_errors
from hook.evaluation.bootstrap import Interval, bootstrap_mean
from hook.evaluation.boundary import boundary_scores
from hook.evaluation.codebook_metric import CodebookMetric
from hook.evaluation.rates import (
    IMAGE_CODECS,
    ImageCodec,
    from_mosaic,
    installed_codecs,
    pack_codes,
    to_mosaic,
    unpack_codes,
)
from hook.evaluation.reconstruction import measure_reconstruction, psnr
from hook.evaluation.vtbench import image_scores, resized
from hook.geo.bands import resolve_bands
from hook.geo.raster import open_raster, read_valid
from hook.geo.staging import atomic_write, save_png
from hook.models.autoencoders import TileAutoencoder
from hook.structures import ClsDataSample
from hook.tokenizers import ImageFacts
from hook.visualization.drawing import enlarge, figure_to_rgb, stretch_limits, stretch_to_rgb
from hook.visualization.overview import Panel, draw_overview

COLUMNS, PER_MOSAIC = 20, 400
WORST = 4  # images in the picture
PICTURE_SIDE = 256  # approximate pixels of an image in the picture
ERROR_SCALE = 4  # of the errors in the picture


@dataclass
class Images:
    """The images of a comparison; those of one size are laid out in mosaics."""

    name: str
    arrays: list[np.ndarray]  # (C, H, W) in the units of the data
    valid: list[np.ndarray | None]  # (H, W) bool
    data_range: float | Sequence
    bands: Sequence[str] | None = None
    labels: list[str] = field(default_factory=list)  # names of classes

    @property
    def sheets(self) -> list[slice]:
        """The images of each file."""
        same = len({array.shape for array in self.arrays}) == 1
        step = PER_MOSAIC if same else 1
        return [slice(i, i + step) for i in range(0, len(self.arrays), step)]

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return sum(array[0].size for array in self.arrays)


@dataclass
class Decoded:
    """What a codec makes of the images."""

    name: str
    arrays: list[np.ndarray]
    size: int | None  # bytes of all files; None for latents without codes
    seconds: tuple[float, float]  # of encoding and decoding
    codes: dict[str, float] = field(default_factory=dict)
    learned: bool = True


# ------------------------------------------------------------------------------ inputs
def read_images(cfg: Config, limit: int | None, split: str = "test") -> Images:
    """Read images of a config as its test does, evenly spaced ones with a limit."""
    metric = next(
        (m for m in as_list(cfg.get("test_evaluator")) if "data_range" in m),
        None,
    )
    if metric is None:
        raise ConfigError(
            f"{cfg.filename}: the range of the images is not known",
            expected="hook.ReconstructionMetric with data_range in test_evaluator",
            remedy="add it, or name a config that has it with --data",
        )
    plain = dict(pipeline=cfg.test_dataloader.dataset.pipeline, test_mode=True)
    dataset = build_dataset(cfg, split, lambda section: section | plain)
    meta = dataset.metainfo
    found = Images(f"{split} images", [], [], metric["data_range"], meta.get("bands"))
    numbers = np.unique(np.linspace(0, len(dataset) - 1, limit or len(dataset)).round().astype(int))
    for number in tqdm(numbers, desc="reading", leave=False):
        packed = dataset[int(number)]
        sample = packed["data_samples"]
        found.arrays.append(packed["inputs"].float().numpy())
        mask = sample.valid_mask.data[0].numpy() > 0 if "valid_mask" in sample else None
        found.valid.append(None if mask is None or mask.all() else mask)
        if "gt_label" in sample and "classes" in meta:
            found.labels.append(meta["classes"][int(sample.gt_label)])
    return found


def read_scene(path: Path, like: Images) -> Images:
    """Read a file as one image, with the bands of other images by their names."""
    with open_raster(path) as source:
        indexes = resolve_bands(source, like.bands or range(1, len(like.arrays[0]) + 1))
        array = source.read(indexes)
        valid = read_valid(source, indexes, array)
    masks = [None if valid.all() else valid]
    return Images(path.stem, [array], masks, like.data_range, like.bands)


def load_codec(cfg: Config, checkpoint: str, device: str) -> TileAutoencoder:
    """Load an autoencoder for inference."""
    model = build_model(cfg)
    if not isinstance(model, TileAutoencoder):
        raise ConfigError(
            f"{cfg.filename} is no codec",
            expected="hook.TileAutoencoder",
            found=type(model).__name__,
        )
    load_weights(model, checkpoint)
    return to_device(model, device).eval()


# ------------------------------------------------------------------------------ coding
@torch.inference_mode()
def run_model(name: str, model: TileAutoencoder, images: Images, batch_size: int) -> Decoded:
    """Encode, pack, unpack and decode the images."""
    arrays: list[np.ndarray] = []
    size, seconds, codebook = 0, [0.0, 0.0], CodebookMetric()
    quantizer = model.quantizer
    has_codes = quantizer is not None and quantizer.codebook_sizes is not None
    integers = all(np.array_equal(array, np.rint(array)) for array in images.arrays[:8])
    for sheet in tqdm(images.sheets, desc=name, leave=False):
        numbers, parts = range(len(images.arrays))[sheet], []
        for start in range(0, len(numbers), batch_size):
            batch = _batch(images, numbers[start : start + batch_size], model)
            clock = _now()
            quantized = model.encode(batch["inputs"], ImageFacts(batch["valid"]))
            seconds[0] += _now() - clock
            parts.append((batch, quantized))
        if has_codes:
            codes = torch.cat([one.indices for _, one in parts])
            columns = codes[..., None] if codes.ndim == 2 else codes
            file = pack_codes(columns.cpu().numpy(), quantizer.codebook_sizes)
            size += len(file)
            columns = torch.from_numpy(unpack_codes(file)).to(codes.device)
            unpacked = list(columns.reshape(codes.shape).split(batch_size))
        for row, (batch, quantized) in enumerate(parts):
            clock = _now()
            latents = quantized.latents
            if has_codes:
                latents = quantizer.decode(unpacked[row], quantized.grid)
            decoded = model.decode(latents, quantized.grid, batch["inputs"].shape[-2:])
            seconds[1] += _now() - clock
            decoded = model.data_preprocessor.restore(decoded).cpu().numpy()
            arrays += list(np.rint(decoded) if integers else decoded)
            if has_codes:
                _count_codes(codebook, quantizer, unpacked[row], quantized.grid, batch)
    codes = codebook.compute_metrics(codebook.results) if has_codes else {}
    return Decoded(name, arrays, size if has_codes else None, tuple(seconds), codes)


def _batch(images: Images, numbers: Sequence[int], model: TileAutoencoder) -> dict:
    inputs = [torch.from_numpy(images.arrays[i]) for i in numbers]
    samples = []
    for i, image in zip(numbers, inputs, strict=True):
        sample = ClsDataSample(metainfo=dict(img_shape=tuple(image.shape[-2:])))
        if images.valid[i] is not None:
            mask = torch.from_numpy(images.valid[i].astype(np.uint8))
            sample.valid_mask = PixelData(data=mask[None])
        samples.append(sample)
    batch = model.data_preprocessor(dict(inputs=inputs, data_samples=samples), False)
    masks = [images.valid[i] for i in numbers]
    valid = None
    if any(mask is not None for mask in masks):
        shape = tuple(inputs[0].shape[-2:])
        full = [np.ones(shape, bool) if mask is None else mask for mask in masks]
        valid = torch.from_numpy(np.stack(full)).to(batch["inputs"].device)
    return dict(inputs=batch["inputs"], valid=valid)


def _count_codes(codebook: CodebookMetric, quantizer, codes, grid, batch: dict) -> None:
    fold = getattr(quantizer, "fold", (1, 1))
    cells = [side // part for side, part in zip(grid, fold, strict=True)]
    for row, one in enumerate(codes):
        sample = dict(codes=one.unflatten(0, cells), codebook_sizes=quantizer.codebook_sizes)
        sample["indices_kind"] = quantizer.indices_kind
        if batch["valid"] is not None:
            sample["valid_mask"] = batch["valid"][row]
        codebook.process({}, [sample])


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def run_image_codec(codec: ImageCodec, images: Images, rate: float) -> Decoded | None:
    """Code the images with at most ``rate`` bits per pixel; None if the codec cannot."""
    arrays: list[np.ndarray] = []
    size, seconds = 0, [0.0, 0.0]
    dtype = storage_dtype(images)
    for sheet in images.sheets:
        tiles = images.arrays[sheet]
        columns = min(COLUMNS, len(tiles))
        mosaic = to_mosaic(np.stack(tiles), columns).astype(dtype)
        if not codec.takes(mosaic):
            return None
        budget = rate * sum(tile[0].size for tile in tiles) / 8
        start = time.perf_counter()
        found = codec.within(mosaic, budget)
        if found is None:
            return None
        file, tries = found
        seconds[0] += (time.perf_counter() - start) / tries
        size += len(file)
        start = time.perf_counter()
        decoded = codec.decode(file)
        seconds[1] += time.perf_counter() - start
        arrays += list(from_mosaic(decoded, len(tiles), columns).astype(np.float32))
    return Decoded(codec.name, arrays, size, tuple(seconds), learned=False)


def storage_dtype(images: Images) -> np.dtype:
    """Return the smallest type that image codecs take and that holds the images exactly."""
    low = min(float(array.min()) for array in images.arrays)
    high = max(float(array.max()) for array in images.arrays)
    whole = all(np.array_equal(array, np.rint(array)) for array in images.arrays)
    for dtype in (np.uint8, np.uint16, np.int16):
        limits = np.iinfo(dtype)
        if whole and limits.min <= low and high <= limits.max:
            return np.dtype(dtype)
    return np.dtype(np.float32)  # no image codec takes it


# ------------------------------------------------------------------------------ scores
def score(images: Images, of: Decoded, right: np.ndarray | None) -> dict[str, Interval | float]:
    """Return the row of a codec.

    Args:
        images: The originals.
        of: The decoded images.
        right: (2, N) whether the classifier is right on decoded images and on originals.
    """
    pairs = zip(images.arrays, of.arrays, images.valid, strict=True)
    measured = [
        measure_reconstruction(
            torch.from_numpy(np.asarray(image)),
            torch.from_numpy(np.asarray(decoded)),
            images.data_range,
            None if valid is None else torch.from_numpy(valid),
        )
        for image, decoded, valid in pairs
    ]
    measured = [one for one in measured if one is not None]
    errors = np.stack([one.squared_error for one in measured])
    row: dict[str, Interval | float] = {}
    if of.size is not None:
        row |= {"bits per pixel": 8 * of.size / images.pixels, "bytes": of.size}
    row["PSNR"] = mean_of(psnr(errors.mean(axis=1)))
    pooled = mean_of(errors.mean(axis=1))
    row["PSNR of all"] = Interval(*(float(psnr(x)) for x in (pooled.mean, pooled.high, pooled.low)))
    row["SSIM"] = mean_of([one.ssim.mean() for one in measured])
    row["SAM"] = mean_of([one.angle for one in measured])
    row["ERGAS"] = mean_of([one.ergas for one in measured])
    row["edge F1"] = mean_of(100 * boundary_scores(np.stack([one.edges for one in measured]))["f1"])
    if errors.shape[1] > 1:
        names = images.bands or range(1, errors.shape[1] + 1)
        by_band = psnr(errors)
        row |= {f"PSNR {name}": by_band[:, i].mean() for i, name in enumerate(names)}
    row |= of.codes
    if right is not None:
        row["accuracy"] = mean_of(100 * right[0])
        row["change"] = mean_of(100.0 * right[0] - 100.0 * right[1])
    for way, seconds in zip(("encoding", "decoding"), of.seconds, strict=True):
        row[f"ms {way}"] = 1000 * seconds / len(images.arrays)
    return row


def mean_of(values: Sequence[float]) -> Interval:
    """Return the mean over images and its interval."""
    return bootstrap_mean(values, range(len(values)), seed=0)


def vtbench_scores(images: Images, of: Decoded) -> dict[str, float]:
    """Return the official scores of VTBench; its range and batches depend on the images at hand."""
    both = [
        resized([array.clip(0, 255).astype(np.uint8).transpose(1, 2, 0) for array in arrays], 256)
        for arrays in (images.arrays, of.arrays)
    ]
    return {f"VTBench {key}": value for key, value in image_scores(*both).items()}


def are_right(classifier: Classifier, images: Images, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return whether the class of each image is found, (N,)."""
    dtype = storage_dtype(images)
    limits = np.iinfo(dtype)
    given = [np.asarray(one).clip(limits.min, limits.max).astype(dtype) for one in arrays]
    answers = classifier.predict(given, progress=False)["class"].to_numpy()
    return answers == np.array(images.labels)


@torch.inference_mode()
def mean_latents(model: TileAutoencoder, images: Images, batch_size: int) -> np.ndarray:
    """Return the mean over the positions of the latents that the decoder gets, (N, D)."""
    rows = []
    for start in range(0, len(images.arrays), batch_size):
        numbers = range(len(images.arrays))[start : start + batch_size]
        batch = _batch(images, numbers, model)
        quantized = model.encode(batch["inputs"], ImageFacts(batch["valid"]))
        rows.append(quantized.latents.mean(dim=1).float().cpu().numpy())
    return np.concatenate(rows)


def probe(model: TileAutoencoder, train: Images, test: Images, batch_size: int) -> Interval:
    """Return the accuracy of a linear classification of mean latents in percent."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(mean_latents(model, train, batch_size), train.labels)
    found = classifier.predict(mean_latents(model, test, batch_size))
    return mean_of(100.0 * (found == np.array(test.labels)))


# ------------------------------------------------------------------------------ outputs
def write_tables(folder: Path, rows: list[dict]) -> str:
    """Write ``table.csv`` and ``table.md``, and return the latter."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    ends = {key for row in rows for key, value in row.items() if isinstance(value, Interval)}
    heads = [
        name for c in columns for name in ((c, f"{c} low", f"{c} high") if c in ends else (c,))
    ]
    with atomic_write(folder / "table.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, heads)
        writer.writeheader()
        for row in rows:
            cells = {}
            for key, value in row.items():
                if isinstance(value, Interval):
                    cells |= {key: value.mean, f"{key} low": value.low, f"{key} high": value.high}
                else:
                    cells[key] = value
            writer.writerow(cells)
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows]
    text = "\n".join(lines) + "\n"
    with atomic_write(folder / "table.md") as partial:
        partial.write_text(text)
    return text


def _cell(value: object) -> str:
    if isinstance(value, Interval):
        known = not np.isnan([value.low, value.high]).any()
        ends = f" [{value.low:.2f}, {value.high:.2f}]" if known else ""
        return "-" if np.isnan(value.mean) else f"{value.mean:.2f}{ends}"
    if isinstance(value, int | str):
        return str(value)
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"


def draw_worst(path: Path, images: Images, all_decoded: list[Decoded]) -> None:
    """Draw the images with the largest errors of the first codec: originals, decoded, errors."""
    squares = [
        np.square(a.astype(float) - b).mean()
        for a, b in zip(images.arrays, all_decoded[0].arrays, strict=True)
    ]
    # One stretch for all, which shows dark images dark.
    sample = [
        array.reshape(len(array), 1, -1) for array in images.arrays[:: len(squares) // 50 + 1]
    ]
    limits = stretch_limits(np.concatenate(sample, axis=2), images.bands)
    panels = []
    for number in np.argsort(squares)[::-1][:WORST]:
        image, valid = images.arrays[number], images.valid[number]
        factor = max(1, PICTURE_SIDE // max(image.shape[1:]))

        def shown(array, valid=valid, factor=factor):
            picture = stretch_to_rgb(array, images.bands, valid, gamma=1.0, limits=limits)
            return enlarge(picture, factor)

        panels.append(Panel("original", shown(image), f"image {number + 1}"))
        span = (limits[1] - limits[0]).mean()
        for of in all_decoded:
            error = np.abs(of.arrays[number] - image.astype(float)).mean(axis=0)
            error = (255 * ERROR_SCALE * error / span).clip(0, 255).astype(np.uint8)
            grey = enlarge(np.repeat(error[..., None], 3, axis=2), factor)
            panels += [Panel(of.name, shown(of.arrays[number])), Panel("error", grey)]
    title = f"The worst {images.name} of {all_decoded[0].name}"
    note = f"errors are the mean over the bands, {ERROR_SCALE} times as bright as the images"
    columns = 1 + 2 * len(all_decoded)
    draw_overview(path, panels, columns=columns, title=title, subtitle=note, dpi=60)


def draw_rates(path: Path, rows: list[dict], learned: set[str]) -> None:
    """Plot PSNR against bits per pixel: image codecs as lines, autoencoders as points."""
    from matplotlib.figure import Figure

    figure = Figure((7, 5), dpi=150)
    axes = figure.add_subplot(xlabel="bits per pixel", ylabel="PSNR of all pixels in dB")
    for name in dict.fromkeys(row["codec"] for row in rows):
        of = [row for row in rows if row["codec"] == name and "bits per pixel" in row]
        points = sorted((row["bits per pixel"], row["PSNR of all"].mean) for row in of)
        if points:
            style = dict(marker="D", linestyle="none") if name in learned else dict(marker=".")
            axes.plot(*zip(*points, strict=True), label=name, **style)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    save_png(path, figure_to_rgb(figure))


# ------------------------------------------------------------------------------ command
def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="CONFIG CHECKPOINT", help="autoencoders")
    parser.add_argument("--names", nargs="+", help="their names (default: those of the configs)")
    parser.add_argument("--data", metavar="CONFIG", help="config of the test images")
    parser.add_argument("--max-images", type=int, metavar="N", help="evenly spaced (default: all)")
    parser.add_argument("--scene", type=Path, nargs="+", default=[], help="images to code whole")
    parser.add_argument(
        "--classical",
        default=",".join(IMAGE_CODECS),
        help=f"image codecs, of {','.join(IMAGE_CODECS)}, or none (default: all that are "
        "installed and take the images)",
    )
    parser.add_argument(
        "--rates",
        metavar="R,R",
        help="bits per pixel of the image codecs (default: those of the autoencoders)",
    )
    parser.add_argument(
        "--classifier",
        default="hook-fast-tiny_eurosat",
        metavar="MODEL",
        help="a published classifier, used if the data have its classes; or none",
    )
    parser.add_argument(
        "--probe", type=int, metavar="N", help="training images of a linear probe of the latents"
    )
    parser.add_argument("--vtbench", action="store_true", help="add VTBench's official scores")
    parser.add_argument("--out", default="work_dirs/tokenizer_benchmark", help="output folder")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    add_config_options(parser)
    args = parser.parse_args()
    if len(args.models) % 2:
        parser.error("give a CHECKPOINT for each CONFIG")
    if not (args.models or args.data):
        parser.error("give autoencoders, or --data for image codecs alone")
    return args


def chosen_codecs(names: str) -> list[ImageCodec]:
    """Return the image codecs of a list of names."""
    wanted = [] if names == "none" else names.split(",")
    for name in wanted:
        if name not in IMAGE_CODECS:
            raise ConfigError(
                f"--classical: {name!r} is no image codec",
                expected=", ".join([*IMAGE_CODECS, "none"]),
                found=name,
            )
    there = installed_codecs()
    for name in wanted:
        if name not in there:
            print(f"{IMAGE_CODECS[name].name} is left out: its library is not installed")
    return [there[name] for name in wanted if name in there]


def find_classifier(name: str, images: Images, device: str) -> Classifier | None:
    """Return the classifier if it has the classes of the images."""
    if name == "none" or not images.labels:
        return None
    classifier = Classifier(name, device=device)
    fits = set(images.labels) <= set(classifier.classes) and storage_dtype(images) == np.uint8
    if not fits:
        print(f"no accuracy: {name} has other classes than the images, or takes other values")
    return classifier if fits else None


@reports_errors
def main() -> None:
    args = parse_args()
    setup_environment()
    folder, codecs = make_folder(args.out, "--out"), chosen_codecs(args.classical)
    configs = [load_config(path, args.cfg_options) for path in args.models[::2]]
    names = args.names or [Path(path).stem for path in args.models[::2]]
    if len(names) != len(configs) or len(set(names)) < len(names):
        raise ConfigError("--names", expected=f"{len(configs)} different names", found=names)
    data = load_config(args.data, args.cfg_options) if args.data else configs[0]
    images = read_images(data, args.max_images)
    models = [
        load_codec(*pair, args.device) for pair in zip(configs, args.models[1::2], strict=True)
    ]
    bands = len(images.arrays[0])
    for name, model in zip(names, models, strict=True):
        if model.in_channels != bands:
            raise ConfigError(
                f"{name} does not take the images",
                expected=f"{model.in_channels} bands",
                found=bands,
                remedy="compare codecs of the same bands",
            )
    classifier = find_classifier(args.classifier, images, args.device)
    scenes = [read_scene(path, images) for path in args.scene]
    rows, probes = [], {}
    if args.probe:
        train = read_images(data, args.probe, "train")
        if not (train.labels and images.labels):
            raise ConfigError("--probe needs labels", expected="data of a classification")
        probes = {
            name: probe(model, train, images, args.batch_size)
            for name, model in zip(names, models, strict=True)
        }
    for one in (images, *scenes):
        reads = classifier is not None and bool(one.labels)
        known = are_right(classifier, one, one.arrays) if reads else None
        if known is not None:
            rows.append({"data": one.name, "codec": "original", "accuracy": mean_of(100 * known)})
        decoded = [
            run_model(*pair, one, args.batch_size) for pair in zip(names, models, strict=True)
        ]
        rates = [8 * of.size / one.pixels for of in decoded if of.size is not None]
        if args.rates:
            rates = [float(rate) for rate in args.rates.split(",")]
        for rate in sorted(set(rates)):
            tried = tqdm(codecs, desc=f"{one.name}, {rate:.3f} bits per pixel", leave=False)
            decoded += [of for codec in tried if (of := run_image_codec(codec, one, rate))]
        for of in decoded:
            right = None
            if known is not None:
                right = np.stack([are_right(classifier, one, of.arrays), known]).astype(float)
            row = {"data": one.name, "codec": of.name} | score(one, of, right)
            if args.vtbench and bands == 3:
                row |= vtbench_scores(one, of)
            if one is images and of.name in probes:
                row["probe"] = probes[of.name]
            rows.append(row)
        own = [row for row in rows if row["data"] == one.name]
        draw_rates(folder / f"rates_{one.name.replace(' ', '_')}.png", own, set(names))
        if decoded:
            first = decoded[: max(1, len(names))]
            draw_worst(folder / f"worst_{one.name.replace(' ', '_')}.png", one, first)
    print(write_tables(folder, rows))
    print(f"times on {device_name(args.device)}; tables and pictures in {folder}")


if __name__ == "__main__":
    sys.exit(main())
