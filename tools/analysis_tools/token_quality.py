r"""Measure how well tokens match objects, compared with other segmenters of as many regions.

The config's test images need masks. Every number of tokens has two comparisons:

- equal number of labels: tokens and clusters of k-means on colour and position may be scattered;
  SLIC, a regular grid and merged patches get as many regions as an image has tokens;
- equal number of connected components: connected parts of tokens (those below 16 pixels merged into
  the neighbour with the longest common border), and as many regions of SLIC, Felzenszwalb and
  Huttenlocher, a regular grid and merged patches.

``--beside`` adds the tokens of other models, such as tokenizers that were not trained on the data
and the slots of autoencoders (hook.SlotAutoencoder), and SLIC and k-means with as many regions.
Models may use different numbers of labels, which the tables show: compare each with its own SLIC.
``--diffusion-steps`` smooths the assignment over neighbouring seeds of similar colour first (see
HookTokenizer). ``--min-region-pixels`` merges connected parts of tokens below an area into the most
similar neighbour, as SLIC does.

Merged patches are the tokens of a patch embedding, before and after the ViT's blocks, merged with
their most similar neighbours (Ward's criterion).

    python tools/analysis_tools/token_quality.py CONFIG CHECKPOINT --untrained \
        --patch-config PATCH_CONFIG --patch-checkpoint PATCH_CHECKPOINT \
        --json quality.json --show-dir quality

For a classifier the tokens themselves are compared instead: the share of their variance over images
that is common to all tokens of an image, the cosine of their weights, and the accuracy of linear
probes (logistic regressions, fitted to the training images) of tokens and of seeds:

    python tools/analysis_tools/token_quality.py CONFIG CHECKPOINT --max-images 3000

Rows have the mean over the images and the 95 % interval of a bootstrap over their files. Lower is
better for UE and VI. Shares, UE and VI refer to objects, the connected parts of each class (a class
named background is one object), ASA to classes.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from prettytable import PrettyTable
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from hook.cli.options import add_old_spelling
from hook.engine.configs import (
    add_config_options,
    build_dataset,
    load_config,
    make_folder,
    setup_environment,
)
from hook.engine.models import build_model, is_segmentation
from hook.engine.profiling import command_line, prepare_output, relative_path, write_json
from hook.errors import ConfigError, DataError, reports_errors
from hook.evaluation.bootstrap import bootstrap_mean
from hook.evaluation.boundary import check_tolerance, label_boundary, near
from hook.evaluation.homogeneity import (
    MEASURES,
    NO_REGION,
    common_variance,
    connected_components,
    measure_regions,
    stuff_classes,
    weight_cosine,
)
from hook.evaluation.samples import class_names
from hook.evaluation.superpixels import (
    felzenszwalb_regions,
    kmeans_regions,
    merge_by_colour,
    merge_by_similarity,
    merge_fragments,
    regular_grid,
    slic_regions,
    token_regions,
)
from hook.geo.styles import distinct_palette
from hook.inference.models import chosen_tokens, load_model
from hook.models import SlotAutoencoder
from hook.structures import ImageTokens
from hook.tokenizers import HookTokenizer
from hook.tokenizers.assignment import resize_nearest
from hook.visualization.drawing import render_labels, render_tokens, stretch_to_rgb
from hook.visualization.overview import Panel, draw_overview

IGNORE_INDEX = 255
FRAGMENT = 16  # pixels; the area of a seed
PICTURE_SIDE = 900  # approximate pixels, so that borders of one pixel are thin
MET, MISSED, SPURIOUS = (40, 170, 90), (215, 30, 160), (250, 190, 40)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of a segmentation with masks, or of a classifier")
    parser.add_argument("checkpoint", nargs="?", help="checkpoint; optional with --untrained")
    parser.add_argument(
        "--num-tokens", type=int, nargs="+", metavar="K", help="tokens (default: the model's)"
    )
    parser.add_argument(
        "--beside",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "CONFIG", "CHECKPOINT"),
        help="additional model with tokens, of any task; may be repeated",
    )
    parser.add_argument(
        "--diffusion-steps",
        type=int,
        metavar="N",
        help="of all tokenizers (default: as configured)",
    )
    parser.add_argument(
        "--min-region-pixels",
        type=int,
        default=0,
        metavar="PIXELS",
        help="minimum area of a connected part of a token; smaller parts are merged",
    )
    add_old_spelling(parser, "--min-region", "--min-region-pixels")
    parser.add_argument("--patch-config", metavar="CONFIG", help="config of a patch embedding")
    parser.add_argument("--patch-checkpoint", metavar="FILE", help="checkpoint of --patch-config")
    parser.add_argument(
        "--untrained", action="store_true", help="also measure the models with random weights"
    )
    parser.add_argument(
        "--max-images", type=int, metavar="N", help="number of evenly spaced images (default all)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report here")
    parser.add_argument(
        "--show-dir", metavar="DIR", help="draw the best, median and worst image (by ASA) here"
    )
    parser.add_argument(
        "--tolerance", type=float, default=3, help="of boundaries, in pixels (default 3)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of k-means, bootstrap, random weights")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    add_config_options(parser)
    return parser.parse_args()


# ---------------------------------------------------------------------------------- inputs
@dataclass(frozen=True)
class Chip:
    """One test image."""

    name: str
    file: str  # source file; chips of one file are not independent
    inputs: torch.Tensor  # (C, H, W) in model units
    sample: BaseDataElement
    truth: np.ndarray  # (H, W) classes
    valid: np.ndarray  # (H, W) bool
    rgb: np.ndarray  # (H, W, 3) uint8

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, C) in model units, zero where not finite."""
        return np.nan_to_num(self.inputs.float().numpy().transpose(1, 2, 0), posinf=0, neginf=0)

    @property
    def colours(self) -> np.ndarray:
        """(H, W, C) for superpixels: RGB from 0 to 1, or all bands."""
        return self.rgb / 255 if len(self.inputs) == 3 else self.pixels


def read_chip(dataset: Dataset, index: int) -> Chip:
    """Read a test image with its mask; raise DataError without a mask of its size."""
    packed = dataset[index]
    inputs, sample = packed["inputs"], packed["data_samples"]
    file = str(sample.get("img_path", f"image {index}"))
    truth = sample.gt_sem_seg.data[0].numpy() if "gt_sem_seg" in sample else None
    if truth is None or truth.shape != tuple(inputs.shape[-2:]):
        raise DataError(
            f"{file}: no mask on the grid of the image",
            expected=f"a mask of {tuple(inputs.shape[-2:])} pixels",
            found="none" if truth is None else truth.shape,
            remedy="add masks of the size of the images to test_dataloader",
        )
    valid = np.isfinite(inputs.float().numpy()).all(0)
    if "valid_mask" in sample:
        valid &= sample.valid_mask.data[0].numpy() > 0
    rgb = stretch_to_rgb(inputs.numpy(), dataset.metainfo.get("bands"), valid, gamma=1.0)
    window = (sample.get("geo") or {}).get("window")
    name = Path(file).stem + (f"_{window[0]}_{window[1]}" if window is not None else "")
    return Chip(name, file, inputs, sample, truth, valid, rgb)


@dataclass(frozen=True)
class TokenSegmenter:
    """A model and the minimum area of its regions."""

    name: str
    model: nn.Module
    min_region_pixels: int = 0  # pixels

    @property
    def tokenizer(self) -> nn.Module:
        """The model's tokenizer."""
        return self.model.backbone.tokenizer

    def supports(self, num_tokens: int | None) -> bool:
        """Whether the model has queries for this number of tokens."""
        maximum = getattr(self.tokenizer, "max_tokens", 0)
        any_number = getattr(self.model.backbone, "has_regions", False)
        return num_tokens is None or any_number or num_tokens <= maximum

    def regions(self, chip: Chip, num_tokens: int | None) -> np.ndarray:
        """Return the token id of each pixel (H, W), -1 for none."""
        return token_regions(_tokens_of(self.model, chip, num_tokens), self.min_region_pixels)


class SlotSegmenter(TokenSegmenter):
    """An autoencoder of slots, each cell of which is in the slot that it belongs to most."""

    @property
    def tokenizer(self) -> nn.Module:
        """The model's tokenizer."""
        return self.model.encoder.tokenizer

    def supports(self, num_tokens: int | None) -> bool:
        """Whether the model has this number of slots."""
        return num_tokens in (None, self.tokenizer.num_tokens)

    @torch.no_grad()
    def regions(self, chip: Chip, num_tokens: int | None) -> np.ndarray:
        """Return the slot of each pixel (H, W), -1 for none."""
        data = {"inputs": [chip.inputs], "data_samples": [chip.sample.clone()]}
        data = self.model.data_preprocessor(data, False)
        (found,) = self.model.predict(data["inputs"], data["data_samples"])
        ids, stride = found.token_ids.cpu().numpy(), self.model.stride
        if self.min_region_pixels:
            colours = torch.from_numpy(chip.colours.astype(np.float32)).permute(2, 0, 1)[None]
            cells = F.avg_pool2d(colours, stride, ceil_mode=True)[0].numpy()
            ids = merge_by_colour(ids, cells, -(-self.min_region_pixels // stride**2))
        pixels = np.kron(ids, np.ones([stride] * 2, ids.dtype))
        pixels = pixels[: chip.valid.shape[0], : chip.valid.shape[1]]
        return np.where(chip.valid, pixels, NO_REGION)


@torch.no_grad()
def _tokens_of(model: nn.Module, chip: Chip, num_tokens: int | None = None) -> ImageTokens:
    """Tokenize an image as in a test."""
    data = {"inputs": [chip.inputs], "data_samples": [chip.sample.clone()]}
    return model.tokenize(**model.data_preprocessor(data, False), num_tokens=num_tokens)[0]


class MergedPatches:
    """The patches of a model, merged by similarity."""

    def __init__(self, name: str, model: nn.Module) -> None:
        self.name, self.model = name, model

    def features(self, chip: Chip) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return patch features (N, D) and the patch of each pixel (H, W) by name of the row."""
        tokens = _tokens_of(self.model, chip)
        before = tokens.output.tokens[0, -tokens.num_tokens :]
        cells = tokens.spread(tokens.output.token_map()[0], everywhere=True)
        after = tokens.embeddings
        return {
            f"patches merged, embedding {self.name}": (before.float().cpu().numpy(), cells),
            f"patches merged, after a ViT {self.name}": (after.float().cpu().numpy(), cells),
        }


# ---------------------------------------------------------------------------------- comparisons
@dataclass
class Comparison:
    """One table: per row a list of measures, one per image."""

    title: str
    kind: str
    num_tokens: int
    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)


def compare(
    chips: Sequence[Callable[[], Chip]],
    models: Sequence[TokenSegmenter],
    patches: Sequence[MergedPatches],
    counts: Sequence[int | None],
    measure: Callable[[Chip, np.ndarray], dict[str, float]],
    seed: int,
) -> tuple[list[Comparison], list[str], list[str]]:
    """Measure all segmenters on all images.

    Args:
        chips: Functions that read one image each.
        models: The first sets the number of regions of the other segmenters; each further model
            has rows of SLIC and k-means with as many regions as its own.
        patches: Patch embeddings to merge.
        counts: Numbers of tokens; None uses those of the models.
        measure: Function of a chip and its regions.
        seed: Seed of k-means.

    Returns:
        Two comparisons per number of tokens, and name and file of each image.
    """
    comparisons = []
    for count in counts:
        shown = count or getattr(models[0].model.backbone.tokenizer, "num_tokens", 0)
        comparisons += [
            Comparison(f"{shown} tokens: equal number of labels", "labels", shown),
            Comparison(f"{shown} tokens: equal number of components", "components", shown),
        ]
    names, files = [], []
    for read in tqdm(chips, unit="image", disable=None):
        chip = read()
        names.append(chip.name)
        files.append(chip.file)
        features = {name: of for model in patches for name, of in model.features(chip).items()}
        for count, by_labels, by_components in zip(
            counts, comparisons[::2], comparisons[1::2], strict=True
        ):
            maps = {
                model.name: model.regions(chip, count) for model in models if model.supports(count)
            }
            parts = {name: merge_fragments(regions, FRAGMENT) for name, regions in maps.items()}
            labels = others(chip, _count(maps[models[0].name]), features, "labels", seed)
            components = others(chip, _count(parts[models[0].name]), features, "components", seed)
            for model in models[1:]:
                if model.name in maps:
                    row, number = f"SLIC, as many as {model.name}", _count(maps[model.name])
                    labels[row] = alone(chip, number, slic_regions)
                    components[row] = alone(chip, _count(parts[model.name]), slic_regions)
                    row = f"k-means, as many as {model.name}"
                    labels[row] = alone(chip, number, partial(kmeans_regions, seed=seed))
            rows = ((by_labels, maps | labels), (by_components, parts | components))
            for comparison, found in rows:
                for name, regions in found.items():
                    comparison.rows.setdefault(name, []).append(measure(chip, regions))
    return comparisons, names, files


def others(
    chip: Chip,
    count: int,
    features: dict[str, tuple[np.ndarray, np.ndarray]],
    kind: str,
    seed: int,
) -> dict[str, np.ndarray]:
    """Segment an image with the methods to compare with.

    Args:
        chip: The image.
        count: Number of regions.
        features: From :meth:`MergedPatches.features`.
        kind: ``"labels"`` or ``"components"``.
        seed: Seed of k-means.

    Returns:
        (H, W) regions by name of the method, -1 where invalid; there may be fewer than ``count``
        if the image has invalid pixels.
    """
    box = _bounding_box(chip.valid)  # no regions for padding
    colours, size = chip.colours[box], chip.valid[box].shape
    count = min(count, size[0] * size[1])
    if kind == "labels":
        found = {"k-means on colour and position": kmeans_regions(colours, count, seed=seed)}
        found["SLIC"] = slic_regions(colours, count)
    else:
        found = {"SLIC": slic_regions(colours, count)}
        found["Felzenszwalb"] = felzenszwalb_regions(colours, count, FRAGMENT)
    found["regular grid"] = regular_grid(size, count)
    for name, (of_cells, cells) in features.items():
        used, packed = np.unique(cells[box], return_inverse=True)
        found[name] = merge_by_similarity(of_cells[used], packed.reshape(size), [count])[0]
    return {name: _uncrop(chip, box, regions) for name, regions in found.items()}


def alone(chip: Chip, count: int, segment: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """Segment an image into (H, W) regions with one method; see :func:`others`."""
    box = _bounding_box(chip.valid)
    colours = chip.colours[box]
    return _uncrop(chip, box, segment(colours, min(count, colours[..., 0].size)))


def _uncrop(chip: Chip, box: tuple[slice, slice], regions: np.ndarray) -> np.ndarray:
    """Pad the regions of a box to the size of the image."""
    padded = np.full(chip.valid.shape, NO_REGION, np.int64)
    padded[box] = np.where(chip.valid[box], regions, NO_REGION)
    return padded


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns with True pixels, or all if there are none."""
    if not mask.any():
        return slice(None), slice(None)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _count(regions: np.ndarray) -> int:
    return max(len(np.unique(regions[regions >= 0])), 1)


def take_measures(
    chip: Chip, regions: np.ndarray, classes: Sequence[str], tolerance: float
) -> dict[str, float]:
    """Count and measure the regions of an image."""
    parts = connected_components(regions)
    values = {"labels": float(_count(regions)), "components": float(_count(parts))}
    return values | measure_regions(
        regions, chip.truth, chip.pixels, tolerance, IGNORE_INDEX, stuff_classes(classes)
    )


def summarise(
    comparison: Comparison, names: Sequence[str], files: Sequence[str], seed: int
) -> dict[str, Any]:
    """Compute means, intervals, and differences from the first row of a comparison.

    Returns:
        ``title``, ``kind``, ``num_tokens`` and ``rows``, each with ``name``, mean ``labels`` and
        ``components``, ``measures``, ``first_minus_this`` (paired by image) and ``images``.
    """
    rows, first = [], None
    for name, images in comparison.rows.items():
        values = {key: np.array([image[key] for image in images]) for key in images[0]}
        first = first or values
        rows.append(
            {
                "name": name,
                "labels": float(values["labels"].mean()),
                "components": float(values["components"].mean()),
                "measures": {
                    key: bootstrap_mean(values[key], files, seed).as_dict() for key in MEASURES
                },
                "first_minus_this": {
                    key: bootstrap_mean(first[key] - values[key], files, seed).as_dict()
                    for key in MEASURES
                },
                "images": [
                    {"name": chip}
                    | {key: None if np.isnan(value) else value for key, value in image.items()}
                    for chip, image in zip(names, images, strict=True)
                ],
            }
        )
    return {
        "title": comparison.title,
        "kind": comparison.kind,
        "num_tokens": comparison.num_tokens,
        "rows": rows,
    }


def make_table(summary: dict[str, Any]) -> str:
    """Format a comparison: mean and interval of each measure, in percent, VI in bits."""
    heads = [name.replace("Boundary", "B").replace("VI", "VI (bit)") for name in MEASURES]
    table = PrettyTable(["segmenter", "labels", "parts", *heads])
    table.align["segmenter"] = "l"
    for row in summary["rows"]:
        cells = []
        for name, value in row["measures"].items():
            factor, digits = (1, 2) if name == "VI" else (100, 1)
            mean, low, high = (
                "-" if value[end] is None else f"{factor * value[end]:.{digits}f}"
                for end in ("mean", "low", "high")
            )
            cells.append(f"{mean}\n{low}..{high}")
        name = row["name"].replace(" (", "\n  (", 1)
        table.add_row([name, f"{row['labels']:.1f}", f"{row['components']:.1f}", *cells])
    return f"{summary['title']}\n{table}"


# ---------------------------------------------------------------------------------- pictures
def draw_chip(
    path: Path,
    chip: Chip,
    regions: np.ndarray,
    row: str,
    verdict: str,
    meta: dict[str, Any],
    tolerance: float,
) -> None:
    """Draw image, truth, tokens, and the token boundaries that match true ones.

    Args:
        path: PNG to write.
        chip: The image.
        regions: (H, W) token ids.
        row: Name of the segmenter.
        verdict: Title with the rank and score of the image.
        meta: Dataset meta with ``classes`` and ``palette``.
        tolerance: Of boundaries, in pixels.
    """
    classes = tuple(meta["classes"])
    palette = meta.get("palette") or distinct_palette(len(classes))
    factor = max(1, round(PICTURE_SIDE / max(chip.truth.shape)))
    size = tuple(factor * side for side in chip.truth.shape)
    image, tokens = resize_nearest(chip.rgb, size), resize_nearest(regions, size)
    known = (chip.truth != IGNORE_INDEX) & (regions >= 0)
    true = label_boundary(np.where(known, chip.truth.astype(np.int64), NO_REGION), NO_REGION)
    found = label_boundary(np.where(known, regions, NO_REGION), NO_REGION)
    boundaries = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1) * 0.5 + 110
    met = true & near(found, tolerance)
    for mask, colour in (
        (found & ~near(true, tolerance), SPURIOUS),
        (true & ~met, MISSED),
        (met, MET),
    ):
        boundaries[resize_nearest(mask, size)] = colour
    number, parts = _count(regions), _count(connected_components(regions))
    extra = {
        "true boundary, met": MET,
        "true boundary, missed": MISSED,
        "token boundary without a true one": SPURIOUS,
    }
    draw_overview(
        path,
        [
            Panel("Image", image),
            Panel("Truth", render_labels(resize_nearest(chip.truth, size), palette)),
            Panel(
                "Tokens",
                render_tokens(tokens, image, num_tokens=number),
                f"{number} tokens in {parts} connected parts",
            ),
            Panel("Boundaries", boundaries.astype(np.uint8), f"met within {tolerance:g} pixels"),
        ],
        (*classes, *extra),
        (*palette, *extra.values()),
        title=verdict,
        subtitle=f"{row} on {chip.name}",
        columns=2,
        dpi=110,
    )


# ---------------------------------------------------------------------------------- classifiers
@torch.no_grad()
def read_tokens(model: nn.Module, cfg: Config, split: str, number: int | None) -> dict[str, Any]:
    """Return labels, tokens, seeds and the cosine of weights of evenly spaced images."""
    plain = dict(pipeline=[dict(type="hook.PackClsSample")], test_mode=True)
    # A data set class of the user's may have no pipeline.
    dataset = build_dataset(
        cfg, split, lambda options: options | plain if "pipeline" in options else options
    )
    total = len(dataset)
    indexes = np.linspace(0, total - 1, min(number or total, total)).round().astype(int)
    found: dict[str, list] = {name: [] for name in ("label", "before", "after", "seeds", "cosine")}
    for chosen in tqdm(np.array_split(indexes, -(-len(indexes) // 32)), desc=split, leave=False):
        samples = [dataset[int(index)] for index in chosen]
        batch = {key: [s[key] for s in samples] for key in ("inputs", "data_samples")}
        for sample, tokens in zip(
            samples, model.tokenize(**model.data_preprocessor(batch, False)), strict=True
        ):
            found["label"].append(int(sample["data_samples"].gt_label))
            found["before"].append(tokens.output.tokens[0, -tokens.num_tokens :])
            found["after"].append(tokens.embeddings)
            found["seeds"].append(torch.cat(torch.std_mean(tokens.seeds.features[0], (0, 1))[::-1]))
            found["cosine"].append(weight_cosine(tokens.output.assignment[0].cpu().numpy()))
    arrays = {name: torch.stack(found[name]).cpu().numpy() for name in ("before", "after", "seeds")}
    return arrays | dict(label=np.array(found["label"]), cosine=float(np.nanmean(found["cosine"])))


def probe(train: np.ndarray, test: np.ndarray, labels: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the test accuracy in percent of a logistic regression on features (I, ...)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = (part.reshape(len(part), -1).astype(np.float64) for part in (train, test))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return 100 * float(classifier.fit(train, labels[0]).score(test, labels[1]))


def compare_tokens(model: nn.Module, cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Print and return the statistics of the tokens of a classifier; see the module."""
    train, test = (read_tokens(model, cfg, split, args.max_images) for split in ("train", "test"))
    labels = train["label"], test["label"]
    count = test["before"].shape[1]
    some = sorted(set(np.linspace(0, count - 1, min(count, 6)).round().astype(int).tolist()))
    report: dict[str, Any] = dict(tokens=count, train=len(labels[0]), test=len(labels[1]))
    report["cosine of weights"] = test["cosine"]
    for name, title in (("before", "before the ViT"), ("after", "after the ViT")):
        report[f"common variance, {title}"] = 100 * common_variance(test[name])
        single = [probe(train[name][:, i], test[name][:, i], labels) for i in some]
        report[f"probe of one token, {title}"] = [min(single), max(single)]
        report[f"probe of all tokens, {title}"] = probe(train[name], test[name], labels)
        means = (part[name].mean(axis=1) for part in (train, test))
        report[f"probe of their mean, {title}"] = probe(*means, labels)
    half = test["seeds"].shape[1] // 2
    means = (part["seeds"][:, :half] for part in (train, test))
    report["probe of the mean of the seeds"] = probe(*means, labels)
    report["probe of their mean and deviation"] = probe(train["seeds"], test["seeds"], labels)
    table = PrettyTable(["", "value"], align="l")
    for name, value in report.items():
        values = value if isinstance(value, list) else [value]
        table.add_row([name, " to ".join(f"{one:.4g}" for one in values)])
    print(table)
    return report


# ---------------------------------------------------------------------------------- command
def load_models(
    config: str, checkpoint: str | None, args: argparse.Namespace, options: dict | None
) -> list[tuple[str, nn.Module]]:
    """Load a config's models: trained with a checkpoint, untrained with ``--untrained``.

    Raises:
        ConfigError: If the model is not a segmentation with a tokenizer.
        CheckpointError: If the checkpoint cannot be read or does not fit the model.
    """
    cfg = load_config(config, options)
    models = []
    if checkpoint is not None:
        models.append(("(trained on the task)", load_model((cfg, checkpoint), device=args.device)))
    if args.untrained:
        torch.manual_seed(args.seed)
        models.append(("(untrained)", build_model(cfg).to(args.device).eval()))
    for _, model in models:
        if not is_segmentation(model) or not hasattr(model.backbone, "tokenizer"):
            raise ConfigError(
                f"{config} is not a segmentation with tokens",
                expected="a segmentor with a hook.TokenViT",
                found=f"{type(model).__name__} with {type(model.backbone).__name__}",
                remedy="use a segmentation config, such as those of configs/hook",
            )
    return models


def load_beside(args: argparse.Namespace) -> list[TokenSegmenter]:
    """Load the models of ``--beside``; errors as in :func:`load_models`."""
    models = []
    for name, config, checkpoint in args.beside:
        model = load_model((load_config(config), checkpoint), device=args.device)
        if isinstance(model, SlotAutoencoder):
            models.append(SlotSegmenter(f"slots ({name})", model, args.min_region_pixels))
            continue
        if not isinstance(getattr(model.backbone, "tokenizer", None), HookTokenizer):
            raise ConfigError(
                f"--beside {name}: {config} has no tokenizer",
                expected="a model with hook.HookTokenizer",
                found=type(model.backbone).__name__,
            )
        models.append(TokenSegmenter(f"HOOK tokens ({name})", model, args.min_region_pixels))
    return models


def check(args: argparse.Namespace) -> None:
    """Check the options before the images are read; raise ConfigError."""
    if args.checkpoint is None and not args.untrained:
        raise ConfigError(
            "no checkpoint given",
            expected="CONFIG CHECKPOINT",
            remedy="add one, or measure random weights with --untrained",
        )
    if args.patch_config and not (args.patch_checkpoint or args.untrained):
        raise ConfigError(
            "--patch-config without --patch-checkpoint",
            remedy="add it, or measure random weights with --untrained",
        )
    if args.patch_checkpoint and not args.patch_config:
        raise ConfigError("--patch-checkpoint without --patch-config", remedy="add its config")
    if args.max_images is not None and args.max_images < 1:
        raise ConfigError("--max-images", expected="1 or more", found=args.max_images)
    if args.min_region_pixels < 0:
        raise ConfigError(
            "--min-region-pixels", expected="0 pixels or more", found=args.min_region_pixels
        )
    if args.diffusion_steps is not None and args.diffusion_steps < 0:
        raise ConfigError("--diffusion-steps", expected="0 or more", found=args.diffusion_steps)
    check_tolerance(args.tolerance, "--tolerance")
    prepare_output(args, "json")
    if args.show_dir is not None:
        make_folder(args.show_dir, "--show-dir")


def check_classifier(model: nn.Module, args: argparse.Namespace) -> None:
    """Raise ConfigError for an option or a model that the statistics of a classifier lack."""
    options = ("num_tokens", "beside", "diffusion_steps", "patch_config", "untrained", "show_dir")
    for name in options:
        if getattr(args, name):
            raise ConfigError(
                f"--{name.replace('_', '-')} has no meaning for a classifier",
                expected="a segmentation with masks",
                found=type(model).__name__,
                remedy="leave it out",
            )
    backbone = model.backbone
    if not hasattr(backbone.tokenizer, "perceive") or backbone.explained is not None:
        raise ConfigError(
            f"{args.config}: tokens and seeds cannot be compared",
            expected="a hook.HookTokenizer, and the same number of tokens for each image",
            found=f"{type(backbone.tokenizer).__name__}, explained={backbone.explained}",
            remedy="use another model, or --cfg-options model.backbone.explained=None",
        )


@reports_errors
def main() -> None:
    args = parse_args()
    check(args)
    setup_environment()
    cfg = load_config(args.config, args.cfg_options)
    if args.checkpoint is not None and cfg.model.type.rpartition(".")[2] == "TokenClassifier":
        model = load_model((cfg, args.checkpoint), device=args.device)
        check_classifier(model, args)
        report = dict(config=relative_path(args.config), command=command_line(sys.argv))
        write_json(args.json, report | compare_tokens(model, cfg, args))
        return
    models = [
        TokenSegmenter(_tokens_name(model, state), model, args.min_region_pixels)
        for state, model in load_models(args.config, args.checkpoint, args, args.cfg_options)
    ]
    counts = args.num_tokens or [None]
    for segmenter in models:
        for count in counts:
            chosen_tokens(segmenter.model, count)
    models += load_beside(args)
    if args.diffusion_steps is not None:
        for segmenter in models:
            segmenter.tokenizer.diffusion_steps = args.diffusion_steps
    patches = []
    if args.patch_config:
        for state, model in load_models(args.patch_config, args.patch_checkpoint, args, None):
            if model.backbone.tokenizer.assign != "grid":
                raise ConfigError(
                    f"--patch-config {args.patch_config} is not a patch embedding",
                    expected="a model with hook.PatchEmbedTokenizer",
                    found=type(model.backbone.tokenizer).__name__,
                )
            patches.append(MergedPatches(state, model))
    dataset = build_dataset(load_config(args.config, args.cfg_options), "test")
    meta = dict(getattr(dataset, "metainfo", {}))
    classes = class_names(meta, "the test data")
    total = len(dataset)
    number = min(args.max_images or total, total)
    indexes = np.linspace(0, total - 1, number).round().astype(int).tolist()

    def measure(chip: Chip, regions: np.ndarray) -> dict[str, float]:
        return take_measures(chip, regions, classes, args.tolerance)

    readers = [lambda index=index: read_chip(dataset, index) for index in indexes]
    comparisons, names, files = compare(readers, models, patches, counts, measure, args.seed)
    summaries = [summarise(each, names, files, args.seed) for each in comparisons]
    print(
        f"{len(names)} of {total} test images from {len(set(files))} files, boundaries within "
        f"{args.tolerance:g} px; percent, VI in bits; mean and 95 % interval (bootstrap over files)"
    )
    for summary in summaries:
        print(make_table(summary))
    report = {
        "command": command_line(sys.argv),
        "config": relative_path(args.config),
        "checkpoint": args.checkpoint and relative_path(args.checkpoint),
        "beside": [
            {"name": name, "config": relative_path(config), "checkpoint": relative_path(checkpoint)}
            for name, config, checkpoint in args.beside
        ],
        "diffusion_steps": args.diffusion_steps,
        "min_region_pixels": args.min_region_pixels,
        "patch_config": args.patch_config and relative_path(args.patch_config),
        "patch_checkpoint": args.patch_checkpoint and relative_path(args.patch_checkpoint),
        "images": len(names),
        "files": len(set(files)),
        "tolerance": args.tolerance,
        "seed": args.seed,
        "measures": MEASURES,
        "comparisons": summaries,
    }
    write_json(args.json, report)
    if args.show_dir is not None:
        scores = [image["ASA"] for image in comparisons[0].rows[models[0].name]]
        order = np.argsort(np.nan_to_num(scores, nan=-1.0), kind="stable")
        for name, position in (("best", -1), ("median", len(order) // 2), ("worst", 0)):
            chosen = int(order[position])
            chip = readers[chosen]()
            path = Path(args.show_dir) / f"{name}_{chip.name}.png"
            verdict = f"The {name} of {len(order)} images: ASA {100 * scores[chosen]:.1f} %"
            regions = models[0].regions(chip, counts[0])
            draw_chip(path, chip, regions, models[0].name, verdict, meta, args.tolerance)
            print(relative_path(str(path)))


def _tokens_name(model: nn.Module, state: str) -> str:
    kind = "patches" if model.backbone.tokenizer.assign == "grid" else "HOOK tokens"
    return f"{kind} {state}"


if __name__ == "__main__":
    main()
