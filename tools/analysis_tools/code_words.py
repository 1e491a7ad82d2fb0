r"""Codes and words in one table, and one small transformer over both: what is gained, what is lost.

A residual quantizer learns with its table drawn towards anchors (``anchor_weight``; 1: not at all,
0: the table is the anchors): the rows that a transformer over words and codes has for the codes,
trained in turn with the codec (UniCode, whose language model has more words than there are codes;
here there are fewer); centroids of a frozen network's features; or random vectors, which are the
control. The first turn is without anchors, whatever they are, since the rows of a transformer that
has learned nothing are random ones.

    python tools/analysis_tools/code_words.py words centroids random --weights 1 0.99 0.9 0 \
        --data data/eurosat_rgb_15k --out work_dirs/words --seeds 0 1 2

``--merced`` adds the 21 classes of UC Merced, of whose lists no two have overlapping images.

The transformer learns class phrases of tiles and tiles of class phrases, in Slot-MLLM's layout
(phrase, begin, codes, end, or the other way round), in as many turns whatever the anchors are, and
another one to undo the sum of the codes of
a position, as UniCode's image decompression: all codes from the sums, and from the first codes
alone. It is a demonstration of the mechanism: a phrase says no more than the class.

Each run has ``result.json``; ``table.md`` has a line per run:

- PSNR of test tiles, use of codes, mean cosine of the table's rows and their anchors, accuracy of a
  linear probe of mean latents;
- nats of a word or code of the answers at the end of the transformer's training; accuracy of the
  class whose phrase is the most likely after a test tile, in a phrasing of the training and in one
  that was kept out; accuracy of the published classifier on tiles drawn for phrases of the latter,
  and on ``--tested`` decoded test tiles;
- nats of a code of the decompression, and its accuracy, from sums and from first codes;
- runs called ``pooled``: accuracy of SpaceTimeTokenizer's pooled vectors, drawn towards the phrases
  of their class, by the most similar phrase in both phrasings; and the published classifier's own.

All accuracies are of the same ``--tested`` test tiles, among the classes of their own data set.
Means over the seeds follow.

Several processes with the same ``--out`` share the runs.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from codec_table import RQ
from generator_training import BATCH, Queue, Tiles, add_queue_options, as_bytes
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from PIL import Image
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.layers import Mlp
from torch import Tensor, nn

from hook.apis import Classifier
from hook.datasets.named import EuroSATRGB
from hook.engine.configs import load_config, make_folder, setup_environment
from hook.engine.devices import list_devices
from hook.engine.models import build_model
from hook.engine.profiling import device_name
from hook.engine.runner import set_amp
from hook.errors import ConfigError, DataError, reports_errors
from hook.geo.staging import atomic_write
from hook.models import TileAutoencoder
from hook.models.generators.blocks import Attention, Block, Cache, rotary_table
from hook.models.generators.layout import CodeLayout
from hook.registry import MODELS
from hook.tokenizers import ImageFacts, SpaceTimeTokenizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "autoencoders"
LISTS = CONFIGS.parent / "_base_" / "splits" / "ucmerced"
ANCHORS = ("words", "centroids", "random")
CLASSIFIER = "hook-fast-tiny_eurosat"
FROZEN = dict(type="hook.FrozenBackbone", levels=(2,), scale=2.0)  # stride 8 of tiles enlarged
SAMPLES = 20_000  # feature vectors of which the centroids are made
NAMES = dict(
    AnnualCrop="annual crops",
    Forest="forest",
    HerbaceousVegetation="herbaceous vegetation",
    Highway="a highway",
    Industrial="industrial buildings",
    Pasture="pasture",
    PermanentCrop="permanent crops",
    Residential="a residential area",
    River="a river",
    SeaLake="a sea or lake",
)
MERCED = dict(
    agricultural="farm fields",
    airplane="airplanes",
    baseballdiamond="a baseball field",
    beach="a beach",
    buildings="city buildings",
    chaparral="chaparral",
    denseresidential="dense houses",
    forest="trees",
    freeway="a freeway",
    golfcourse="a golf course",
    harbor="a harbor",
    intersection="an intersection",
    mediumresidential="houses",
    mobilehomepark="mobile homes",
    overpass="an overpass",
    parkinglot="a parking lot",
    river="a small river",
    runway="a runway",
    sparseresidential="a few houses",
    storagetanks="storage tanks",
    tenniscourt="a tennis court",
)
PHRASINGS = ("{} seen from above", "a satellite view of {}", "an image of {} from a satellite")
KEPT_OUT = "a view of {} from above"  # of words that the training has
STOP = 0  # the number of the word that ends a phrase
POOLED = "pooled"  # runs of pooled vectors
POSITIONS = 64  # of a tile
# Whole numbers among the options, and their meaning.
COUNTS = dict(
    steps=(2000, "of the codec, and of pooled vectors"),
    lm_steps=(1000, "of each transformer"),
    turns=(4, "of codec and transformer"),
    interval=(20, "steps between two pulls towards the anchors"),
    depth=(2, "codes of a position"),
    batch_size=(32, "tiles of a step"),
    segment=(16, "positions that are decompressed at once"),
    tested=(300, "test tiles whose class is recognised"),
    drawn=(10, "tiles drawn for each phrase"),
)


class Job(NamedTuple):
    """A run: kind of the anchors (none for a share of 1), share of the table's own rows, seed."""

    anchor: str
    weight: float
    seed: int

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return f"{self.anchor}-{self.weight:g}_seed{self.seed}"


class Phrases:
    """Phrases of the classes as numbers of words.

    Args:
        classes: Names of the classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = [(NAMES | MERCED)[name] for name in classes]
        texts = [p.format(name) for p in (*PHRASINGS, KEPT_OUT) for name in self.names]
        self.classes = classes
        self.words = ["<stop>", *sorted({word for text in texts for word in text.split()})]
        self.longest = 1 + max(len(text.split()) for text in texts)

    def __call__(self, phrasing: str, label: int) -> list[int]:
        """Return the numbers of a phrase and of its end."""
        text = phrasing.format(self.names[label])
        return [*map(self.words.index, text.split()), STOP]


def read_merced(folder: Path, split: str, side: int) -> tuple[list[np.ndarray], list[str]]:
    """Read tiles of UC Merced, as means of their pixels on ``side`` x ``side``, and their classes.

    Raises:
        DataError: An image of the list is missing.
    """
    files = {file.stem: file for file in folder.rglob("*") if file.suffix in (".jpg", ".tif")}
    names = []
    for line in (LISTS / f"ucmerced_{split}.txt").read_text().splitlines():
        name, _, numbers = line.partition(":")
        names += [name + number for number in numbers.split()]
    if absent := [name for name in names if name not in files]:
        raise DataError(
            f"--merced {folder}: {len(absent)} images are missing, the first {absent[0]}",
            expected="UC Merced's images, <class>/<class><nn>.tif or .jpg",
            remedy="pass the folder of the complete download",
        )
    images = [Image.open(files[name]).convert("RGB") for name in names]
    images = [image.resize((side, side), Image.Resampling.BOX) for image in images]
    return [np.asarray(image) for image in images], [name[:-2] for name in names]


class Imagery:
    """Tiles of a split of EuroSAT, and of UC Merced.

    Args:
        split: ``"train"`` or ``"test"``.
        args: Options.

    Attributes:
        images: (N, 3, 64, 64) uint8.
        labels: (N,) int64, those of UC Merced after EuroSAT's.
    """

    def __init__(self, split: str, args: argparse.Namespace) -> None:
        tiles = Tiles(args.data, split, args.tiles, args.device)
        self.images, self.labels = tiles.images, tiles.labels
        if args.merced is not None:
            images, names = read_merced(args.merced, split, self.images.shape[-1])
            images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            labels = torch.tensor([len(NAMES) + list(MERCED).index(name) for name in names])
            self.images = torch.cat([self.images, images.to(args.device)])
            self.labels = torch.cat([self.labels, labels.to(args.device)])


def class_names(args: argparse.Namespace) -> list[str]:
    """Return the names of all classes."""
    return [*EuroSATRGB.class_names, *(MERCED if args.merced is not None else ())]


def some_of(labels: Tensor, count: int) -> Tensor:
    """Return the numbers of the test tiles whose class is recognised."""
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:count]
    return chosen.to(labels.device)


def of_other_set(labels: Tensor, count: int) -> Tensor:
    """Return which of the classes (B, count) are of the other data set than those of tiles (B,)."""
    own = labels[:, None] < len(NAMES)
    return own != (torch.arange(count, device=labels.device) < len(NAMES))


def by_set(name: str, right: Tensor, labels: Tensor) -> dict[str, float]:
    """Return shares in percent of EuroSAT's tiles and of UC Merced's, as far as there are any."""
    known, found = labels.cpu() < len(NAMES), {}
    for end, chosen in (("", known), ("_merced", ~known)):
        if chosen.any():
            found[name + end] = 100 * float(right.cpu()[chosen].float().mean())
    return found


# ------------------------------------------------------------------------------ transformer
class WordModel(nn.Module):
    """Causal transformer over words and codes.

    Args:
        size: Number of words and codes.
        length: Longest sequence.
        code_dims: Width of the table's rows, that of the codec's latents.
        embed_dims: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads.
    """

    def __init__(
        self,
        size: int,
        length: int,
        code_dims: int,
        embed_dims: int = 192,
        depth: int = 4,
        num_heads: int = 6,
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(size, code_dims)
        nn.init.normal_(self.table.weight, std=code_dims**-0.5)
        self.up = nn.Linear(code_dims, embed_dims)
        self.blocks = nn.ModuleList(
            Block(
                Attention(embed_dims, num_heads),
                Mlp(embed_dims, 4 * embed_dims),
                (nn.LayerNorm(embed_dims), nn.LayerNorm(embed_dims)),
            )
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(embed_dims), nn.Linear(embed_dims, size)
        rotary = rotary_table((1, length), embed_dims // num_heads).float()
        self.register_buffer("rotary", rotary, persistent=False)

    def forward(
        self, ids: Tensor, before: Tensor | None = None, caches: list[Cache] | None = None
    ) -> Tensor:
        """Return logits (B, L, size) of what follows each of ``ids`` (B, L).

        Args:
            ids: The sequences.
            before: (B, N, code_dims) vectors in front of them.
            caches: Of earlier tokens, of which ``ids`` is the next.
        """
        rows = self.table(ids)
        x = self.up(rows if before is None else torch.cat([before.to(rows), rows], dim=1))
        start = 0 if caches is None else caches[0].length
        rotary = self.rotary[:, start : start + x.shape[1]]
        for number, block in enumerate(self.blocks):
            x = block(x, rotary, cache=None if caches is None else caches[number])
        return self.head(self.norm(x))


def fit(
    model: nn.Module, losses: Iterator[Tensor], steps: int, rate: float, device: str, amp: bool
) -> float:
    """Train on losses that are drawn; return the mean of the last tenth."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    ends = [0, 0.05, 1]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: float(np.interp(step / steps, ends, [0.01, 1, 0.05]))
    )
    history = []
    model.train()
    for _ in range(steps):
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=amp):
            loss = next(losses)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        history.append(loss.detach())
    model.eval()
    return float(torch.stack(history[-max(1, steps // 10) :]).mean()) if steps else float("nan")


class Pairs:
    """Sequences of tiles and phrases.

    Args:
        phrases: The phrases.
        layout: Numbers of codes.
        codes: (N, P, Q) codes of tiles.
        labels: (N,) classes.
    """

    def __init__(self, phrases: Phrases, layout: CodeLayout, codes: Tensor, labels: Tensor) -> None:
        self.phrases, self.codes, self.labels = phrases, codes, labels
        images = codes.flatten(1) + layout.words
        first, last = (torch.full_like(images[:, :1], end) for end in (layout.begin, layout.end))
        self.images = torch.cat([first, images, last], dim=1)
        self.length = self.images.shape[1] + phrases.longest

    def joined(self, image: Tensor, phrase: list[int], image_first: bool) -> tuple[Tensor, Tensor]:
        """Return a sequence and where its answer is; the rest is filled with words that end."""
        words = image.new_tensor(phrase if image_first else phrase[:-1])
        parts = (image, words) if image_first else (words, image)
        ids = image.new_full((self.length,), STOP)
        ids[: len(image) + len(words)] = torch.cat(parts)
        answer = torch.zeros(self.length, dtype=torch.bool, device=image.device)
        answer[len(parts[0]) : len(image) + len(words)] = True
        return ids, answer

    def losses(self, model: WordModel, batch: int, draws: np.random.Generator) -> Iterator[Tensor]:
        """Yield losses of random batches: of phrases after tiles, and of tiles after phrases."""
        while True:
            rows = []
            for number in draws.integers(len(self.images), size=batch):
                phrasing = PHRASINGS[draws.integers(len(PHRASINGS))]
                phrase = self.phrases(phrasing, int(self.labels[number]))
                rows.append(self.joined(self.images[number], phrase, bool(draws.integers(2))))
            ids, answer = map(torch.stack, zip(*rows, strict=True))
            yield answer_nats(model, ids, answer)[0]


def answer_nats(model: WordModel, ids: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean nats of the answers of a batch, and their sum for each sequence (B,)."""
    logits = model(ids[:, :-1]).float()
    nats = F.cross_entropy(logits.mT, ids[:, 1:], reduction="none") * answer[:, 1:]
    return nats.sum() / answer[:, 1:].sum(), nats.sum(dim=1)


@torch.inference_mode()
def recognise(model: WordModel, pairs: Pairs, phrasing: str) -> Tensor:
    """Return of which tiles (N,) the class has the most likely phrase after them."""
    right = []
    for image, label in zip(pairs.images, pairs.labels.tolist(), strict=True):
        rows = [
            pairs.joined(image, pairs.phrases(phrasing, number), image_first=True)
            for number in range(len(pairs.phrases.classes))
        ]
        _, nats = answer_nats(model, *map(torch.stack, zip(*rows, strict=True)))
        others = of_other_set(nats.new_tensor([label]), len(nats))[0]
        right.append(int(nats.masked_fill(others, torch.inf).argmin()) == label)
    return torch.tensor(right)


@torch.inference_mode()
def draw_codes(
    model: WordModel, layout: CodeLayout, phrase: list[int], shape: tuple[int, int], count: int
) -> Tensor:
    """Draw the codes (count, P, Q) of tiles for a phrase."""
    device = model.table.weight.device
    ids = torch.tensor([*phrase[:-1], layout.begin], device=device).expand(count, -1)
    caches, found = [Cache() for _ in model.blocks], []
    for _ in range(shape[0] * shape[1]):
        logits = model(ids, caches=caches)[:, -1, layout.words : layout.begin].float()
        code = logits.softmax(dim=-1).multinomial(1)
        found.append(code)
        ids = code + layout.words
    return torch.cat(found, dim=1).unflatten(1, shape)


# ------------------------------------------------------------------------------ codec
def build_codec(job: Job, args: argparse.Namespace) -> TileAutoencoder:
    """Build the codec of a run, whose anchors are set later."""
    options = {"model.quantizer.depth": args.depth, "model.quantizer.anchor_weight": job.weight}
    options["model.quantizer.anchor_interval"] = args.interval
    cfg = load_config(CONFIGS / f"{RQ}.py", options | (args.cfg_options or {}))
    if job.weight < 1:
        cfg.model.quantizer.anchor = torch.empty(0)
    model = build_model(cfg)
    model.init_weights()
    return model.to(args.device)


def train_codec(
    model: TileAutoencoder, wrapper: OptimWrapper, images: Tensor, steps: int, batch: int
) -> None:
    """Train on random tiles (N, 3, H, W) uint8."""
    model.train()
    for _ in range(steps):
        index = torch.randint(len(images), (batch,), device=images.device)
        model.train_step(dict(inputs=list(images[index])), wrapper)
    model.eval()


@torch.inference_mode()
def encode(model: TileAutoencoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes (N, P, Q) and latents (N, P, D) of uint8 images."""
    parts = []
    for part in images.split(BATCH):
        inputs = model.data_preprocessor(dict(inputs=part), False)["inputs"]
        found = model.encode(inputs)
        parts.append((found.indices, found.latents))
    return tuple(map(torch.cat, zip(*parts, strict=True)))


@torch.inference_mode()
def decode(model: TileAutoencoder, latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Return uint8 images of this size of latents (N, P, D)."""
    grid, parts = [side // model.stride for side in size], []
    for part in latents.split(BATCH):
        images = model.decode(part, grid, size)
        parts.append(as_bytes(model.data_preprocessor.restore(images)))
    return torch.cat(parts)


def centroids(images: Tensor, count: int, dims: int, seed: int) -> Tensor:
    """Return centroids (count, dims) of the principal components of frozen features."""
    frozen = MODELS.build(FROZEN).to(images.device)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    rows = []
    with torch.inference_mode():
        for part in images[chosen[: max(1, SAMPLES // 16)].to(images.device)].split(BATCH):
            (maps,) = frozen(part.float() / 127.5 - 1)
            rows.append(maps.flatten(2).mT.flatten(0, 1).cpu())
    features = torch.cat(rows)
    features = features[torch.randperm(len(features))[:SAMPLES]].numpy()
    parts = PCA(min(dims, *features.shape), random_state=seed).fit_transform(features)
    parts = np.pad(parts, ((0, 0), (0, dims - parts.shape[1])))
    fitted = MiniBatchKMeans(min(count, len(parts)), random_state=seed, n_init=1).fit(parts)
    found = torch.from_numpy(fitted.cluster_centers_).float()
    found = found[torch.arange(count) % len(found)]
    return (found / found.std() * dims**-0.5).to(images.device)


# ------------------------------------------------------------------------------ decompression
def decompression(
    codec: TileAutoencoder, pair: tuple[Tensor, Tensor], first: bool, args: argparse.Namespace
) -> dict[str, float]:
    """Train a transformer from vectors of positions to all their codes, and test it.

    Args:
        codec: The codec.
        pair: (N, P, Q) codes of training and of test tiles.
        first: The vectors are the rows of the first codes, not the sums of all.
        args: Options.
    """
    quantizer = codec.quantizer
    depth, size = quantizer.depth, quantizer.codebook_sizes[0]
    segment = args.segment
    model = WordModel(size + 1, segment * (depth + 1), quantizer.embed_dims).to(args.device)

    def nats(codes: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            before = quantizer.partial_sums(codes)[0 if first else -1]
        ids = F.pad(codes.flatten(1), (1, -1), value=size)  # a token that begins
        logits = model(ids, before)[:, before.shape[1] :]
        return F.cross_entropy(logits.float().mT, codes.flatten(1)), logits

    def losses(codes: Tensor) -> Iterator[Tensor]:
        starts = codes.shape[1] // segment
        while True:
            rows = torch.randint(len(codes), (args.batch_size,), device=codes.device)
            start = segment * int(torch.randint(starts, ()))
            yield nats(codes[rows, start : start + segment])[0]

    train, test = pair
    fit(model, losses(train), args.lm_steps, args.rate, args.device, args.amp)
    rows, counts = [], []
    with torch.inference_mode():
        for part in torch.cat(test.split(segment, dim=1)).split(BATCH):
            loss, logits = nats(part)
            right = (logits.argmax(dim=-1) == part.flatten(1)).float().mean()
            rows.append((float(loss), 100 * float(right)))
            counts.append(len(part))
    name = "first" if first else "sums"
    found = np.average(rows, axis=0, weights=counts)
    return {f"decompression_{name}": found[0], f"decompression_{name}_right": found[1]}


# ------------------------------------------------------------------------------ pooled vectors
def pooled(job: Job, train: Imagery, test: Imagery, args: argparse.Namespace) -> dict[str, float]:
    """Draw pooled vectors of tiles towards vectors of their phrases; test with the nearest one."""
    phrases = Phrases(class_names(args))
    sizes = dict(embed_dims=128, depth=4, num_heads=4, patch_size=8)
    tokenizer = SpaceTimeTokenizer(3, pooling=True, **sizes).to(args.device)
    words = nn.Embedding(len(phrases.words), sizes["embed_dims"]).to(args.device)
    model = nn.ModuleDict(dict(tokenizer=tokenizer, words=words))
    model.scale = nn.Parameter(torch.tensor(10.0, device=args.device))

    def texts(phrasing: str) -> Tensor:
        rows = [phrases(phrasing, label)[:-1] for label in range(len(phrases.classes))]
        rows = [words(torch.tensor(row, device=args.device)).mean(dim=0) for row in rows]
        return F.normalize(torch.stack(rows), dim=-1)

    def scores(images: Tensor, labels: Tensor, phrasing: str) -> Tensor:
        metres = torch.where(labels < len(NAMES), 10.0, 1.2)  # of a pixel, which is known
        packed = tokenizer.embed(images.float() / 127.5 - 1, ImageFacts(resolution=metres))
        return model.scale * tokenizer.pool(tokenizer.encode(packed)) @ texts(phrasing).T

    def losses() -> Iterator[Tensor]:
        while True:
            rows = torch.randint(len(train.labels), (args.batch_size,), device=args.device)
            phrasing = PHRASINGS[int(torch.randint(len(PHRASINGS), ()))]
            labels = train.labels[rows]
            found = scores(train.images[rows], labels, phrasing).float()
            yield F.cross_entropy(found, labels)

    fit(model, losses(), args.steps, 5e-4, args.device, args.amp)
    chosen, result = some_of(test.labels, args.tested), {}
    images, labels = test.images[chosen], test.labels[chosen]
    others = of_other_set(labels, len(phrases.classes))
    with torch.inference_mode():
        for name, phrasing in (("trained", PHRASINGS[0]), ("kept_out", KEPT_OUT)):
            parts = zip(images.split(BATCH), labels.split(BATCH), strict=True)
            found = torch.cat([scores(*part, phrasing) for part in parts])
            right = found.masked_fill(others, -torch.inf).argmax(dim=1) == labels
            result |= by_set(f"recognised_{name}", right, labels)
    known = labels < len(NAMES)
    return result | {"classifier": classified(images[known], labels[known])}


def classified(images: Tensor, labels: Tensor) -> float:
    """Return the accuracy of the published classifier of EuroSAT in percent."""
    classifier = Classifier(CLASSIFIER)
    found = classifier.predict(list(images.cpu().numpy()), progress=False)["class"]
    names = [EuroSATRGB.class_names[label] for label in labels.tolist()]
    return 100 * float(np.mean([true == one for true, one in zip(names, found, strict=True)]))


# ------------------------------------------------------------------------------ one run
def run(job: Job, folder: Path, train: Imagery, test: Imagery, args: Any) -> None:
    """Train codec and transformers in turn, or pooled vectors, and write ``result.json``."""
    start = time.perf_counter()
    torch.manual_seed(job.seed)
    own = pooled if job.anchor == POOLED else in_turn
    result = dict(job._asdict(), device=device_name(args.device))
    result |= own(job, train, test, args) | dict(seconds=time.perf_counter() - start)
    with atomic_write(folder / "result.json") as partial:
        partial.write_text(json.dumps(result))
    print(f"{job.folder}: {result['seconds']:.0f} s", flush=True)


def in_turn(job: Job, train: Imagery, test: Imagery, args: Any) -> dict[str, float]:
    """Train codec and transformers in turn, and measure them."""
    phrases = Phrases(class_names(args))
    codec = build_codec(job, args)
    size, dims = codec.quantizer.codebook_sizes[0], codec.quantizer.embed_dims
    layout = CodeLayout(len(phrases.words), size)
    positions = (train.images.shape[-1] // codec.stride) ** 2
    length = positions * args.depth + 2 + phrases.longest
    model = WordModel(len(layout), length, dims).to(args.device)
    own = slice(layout.words, layout.begin)

    anchor = torch.randn(size, dims, device=args.device) * dims**-0.5
    if job.anchor == "centroids":
        anchor = centroids(train.images, size, dims, job.seed)
    torch.manual_seed(job.seed)  # the same draws whatever the anchors are
    optimizer = dict(type="Adam", lr=args.codec_rate)
    training = Config(dict(optim_wrapper=dict(type="OptimWrapper", optimizer=optimizer)))
    set_amp(training, args.amp)
    wrapper = build_optim_wrapper(codec, training.optim_wrapper)
    draws = np.random.default_rng(job.seed)
    for turn in range(args.turns):  # of all anchors, so that the transformers have one schedule
        if job.anchor == "words":
            anchor = model.table.weight[own].detach().clone()
        codec.quantizer.anchor = anchor if turn and job.weight < 1 else None
        train_codec(codec, wrapper, train.images, args.steps // args.turns, args.batch_size)
        known = encode(codec, train.images)
        pairs = Pairs(phrases, layout, known[0], train.labels)
        losses, steps = pairs.losses(model, args.batch_size, draws), args.lm_steps // args.turns
        nats = fit(model, losses, steps, args.rate, args.device, args.amp)
    codes, latents = encode(codec, test.images)
    size_of_tile = tuple(test.images.shape[-2:])
    errors = decode(codec, latents, size_of_tile).float() - test.images.float()
    errors = errors.square().flatten(1).mean(dim=1)
    result = dict(nats=nats)
    result["psnr"] = float((10 * torch.log10(255**2 / errors.clamp(min=1e-4))).mean())
    used = [len(column.unique()) / size for column in codes.flatten(0, 1).unbind(dim=1)]
    result["use"] = 100 * float(np.mean(used))
    if job.weight < 1:
        table = codec.quantizer.codebooks[0].weight
        result["cosine"] = float(F.cosine_similarity(table, anchor.to(table), dim=1).mean())
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(known[1].mean(dim=1).cpu().numpy(), train.labels.cpu().numpy())
    score = probe.score(latents.mean(dim=1).cpu().numpy(), test.labels.cpu().numpy())
    result["probe"] = 100 * float(score)
    some = some_of(test.labels, args.tested)
    pairs = Pairs(phrases, layout, codes[some], test.labels[some])
    for name, phrasing in (("trained", PHRASINGS[0]), ("kept_out", KEPT_OUT)):
        right = recognise(model, pairs, phrasing)
        result |= by_set(f"recognised_{name}", right, test.labels[some])
    shape, tiles = tuple(codes.shape[1:]), []
    for number in range(len(NAMES)):  # of which there is a classifier
        drawn = draw_codes(model, layout, phrases(KEPT_OUT, number), shape, args.drawn)
        tiles.append(decode(codec, codec.quantizer.decode(drawn), size_of_tile))
    wanted = torch.arange(len(tiles)).repeat_interleave(args.drawn)
    result["drawn_right"] = classified(torch.cat(tiles), wanted)
    known_ones = some[test.labels[some] < len(NAMES)]
    decoded = decode(codec, latents[known_ones], size_of_tile)
    result["decoded_right"] = classified(decoded, test.labels[known_ones])
    for first in (False, True):
        result |= decompression(codec, (known[0], codes), first, args)
    return result


def write_table(folder: Path) -> str:
    """Write ``table.md`` of all results, and of their means over the seeds."""
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*/result.json"))]
    if not results:
        return ""
    heads = dict.fromkeys(name for one in results for name in one)
    heads = [name for name in heads if name != "device"]
    text = "| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|\n"
    for one in results:
        cells = (one.get(name, "-") for name in heads)
        cells = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells]
        text += "| " + " | ".join(cells) + " |\n"
    groups: dict[tuple[str, float], list[dict]] = {}
    for one in results:
        groups.setdefault((one["anchor"], one["weight"]), []).append(one)
    heads = [name for name in heads if name not in ("anchor", "weight", "seed")]
    text += "\n| " + " | ".join(["anchor", "weight", "seeds", *heads]) + " |\n"
    text += "| --- " * (3 + len(heads)) + "|\n"
    for (anchor, weight), own in groups.items():
        cells = [anchor, f"{weight:g}", str(len(own))]
        for name in heads:
            values = [one[name] for one in own if name in one]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.2f}{spread}" if values else "-")
        text += "| " + " | ".join(cells) + " |\n"
    with atomic_write(folder / "table.md") as partial:
        partial.write_text(text)
    return text


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("anchors", nargs="+", choices=ANCHORS)
    parser.add_argument("--weights", type=float, nargs="+", default=[1, 0.99, 0.9, 0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--merced", type=Path, help="also UC Merced's images, reduced to 64 pixels")
    for name, (value, text) in COUNTS.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=value, help=f"{text} (default {value})")
    parser.add_argument("--tiles", type=int, help="tiles of each split (default: all)")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of transformers")
    parser.add_argument("--codec-rate", type=float, default=3e-4, help="learning rate of the codec")
    add_queue_options(parser, "words")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    setup_environment()
    args.device = list_devices(args.device)[0]
    make_folder(args.out, "--out")
    if POSITIONS % args.segment:
        raise ConfigError(
            "--segment does not divide the positions of a tile",
            expected=f"a divisor of {POSITIONS}",
            found=args.segment,
            remedy="choose another one",
        )
    pulled = args.turns > 1 and args.steps // args.turns * (args.turns - 1) >= args.interval
    if min(args.turns, args.steps, args.lm_steps) < 1 or min(args.weights) < 1 and not pulled:
        raise ConfigError(
            "the tables are never drawn towards their anchors, which begins with the second turn",
            expected="--turns of 2 or more, and --interval of at most the steps after the first",
            found=f"--turns {args.turns}, --steps {args.steps}, --interval {args.interval}",
            remedy="change them, or pass --weights 1 alone",
        )

    @cache
    def data() -> tuple[Imagery, Imagery]:
        return Imagery("train", args), Imagery("test", args)

    # Without anchors there is nothing to choose, and one run of a seed.
    kinds = dict.fromkeys(
        (anchor if weight < 1 else "none", weight)
        for anchor in args.anchors
        for weight in args.weights
    )
    jobs = [Job(*kind, seed) for seed in args.seeds for kind in (*kinds, (POOLED, 1))]
    own = Queue(
        args,
        (*COUNTS, "tiles", "merced", "rate", "codec_rate"),
        run=lambda job, folder: run(job, folder, *data(), args),
    )
    own.work(jobs)
    print(write_table(args.out), flush=True)
    return int(own.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
