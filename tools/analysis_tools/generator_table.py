r"""Train the generators of tables over the codecs of ``codec_table.py``, and measure their tiles.

Each row is a config of ``configs/generators`` over a codec's run in ``--codecs``, trained for
``--iters`` steps in memory: codes or latents of all training tiles, in all their views, are
computed once and stay on the device. The schedule is that of the config, as shares of the steps. At
``--points`` steps, each twice the one before, ``--samples`` tiles are drawn with the averaged
weights, classes in equal shares. Their Fréchet distance to the test tiles is measured in the mean
features of two networks (never called FID: that is another one), beside those of as many training
tiles, as they are and decoded by the codec. Most of a distance may be what the codec loses, so that
``own_distance`` is that to the test tiles decoded by the codec. The first network is
EfficientNet-Lite0, towards which VA-VAE's latents and the flows of the table ``joint`` are drawn,
and from whose features VFM-VAE's latents are made, so that its distances and CKNNA favour them. The
second is the published classifier of EuroSAT, which none of them knows. Of codes also the bits of
a position on test tiles are measured, given their classes, and of flows the CKNNA of each block
with these features.

At the end the codes of ``--packed`` test tiles are packed with the network's probabilities, as by
``hook encode --entropy MODEL`` (without their classes), and with a table of frequencies, as by
``--entropy``, of all factors of a code at once. Both are unpacked and compared (``pip install
hook-rs[codecs]``). ``ms/tile`` is the median time to draw a tile in a batch of 16, without
decoding it. ``nearest`` tells whether training tiles are copied: the root mean squared difference
of a generated tile and the most similar training tile in any view, both at a quarter of their size,
and in parentheses the same of test tiles through the codec.

    python tools/analysis_tools/generator_table.py flows depths factors sizes --seeds 0 1 2 \
        --codecs work_dirs/codecs --data data/eurosat_rgb_15k --out work_dirs/generators \
        --iters 2000 --device cuda

Several processes with the same ``--out`` share the rows. A finished run is not run again, and one
whose process was killed starts anew. Each run has a folder with ``log.jsonl`` (a line per
measurement), ``config.py`` and ``model.pth`` with the averaged weights, and ``samples.png``, the
first tiles of each class, each beside the most similar training tile; ``table.md`` and
``table.csv`` hold all. After the runs ``table.md`` has means over the seeds, and how many times
fewer steps a flow takes than that over latents of a KL of as many channels to the distance where
the latter ends, seed by seed.
"""

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from generator_training import (
    AR,
    BATCH,
    Queue,
    Tiles,
    add_queue_options,
    draw,
    encode,
    encode_features,
    encode_views,
    generator_config,
    optimize,
    reconstruct,
)
from mmengine.config import Config
from torch import Tensor, nn
from torchvision.utils import make_grid

from hook.apis import load_model
from hook.engine.configs import (
    make_folder,
    setup_environment,
)
from hook.engine.devices import list_devices
from hook.engine.models import build_model
from hook.engine.profiling import device_name
from hook.engine.tta import apply_view, views
from hook.errors import ConfigError, DataError, reports_errors
from hook.evaluation.alignment import cknna, permuted_cknna, prepare_features
from hook.evaluation.frechet import frechet_distance
from hook.evaluation.rates import load_constriction, pack_codes, unpack_codes
from hook.geo.staging import atomic_write, save_png
from hook.inference.entropy import EntropyModel
from hook.inference.packed import packed_size
from hook.models import TileGenerator
from hook.models.converters import save_weights
from hook.registry import MODELS

AR_TINY = "ar/ar-256x6_vq-1k-tiny_eurosat-2k-64"
FLOW = "lightningdit/lightningdit-256x6_kl-32_eurosat-2k-64"
ALIGNED = "lightningdit/lightningdit-256x6-aligned_kl-32_eurosat-2k-64"
DND = "dnd/dnd-256x6_rq-1k-d2_eurosat-2k-64"
FACTORS = "factorized/factorized-256x6_lfq-1k_eurosat-2k-64"
PAIRS = {"model.codec.quantizer.factors": (5, 5)}
# Blocks over positions and over factors that have about as many weights as six blocks and the
# tables of 1,024 codes.
FIVE = {"model.network.depth": 5, "model.network.factor_depth": 2}
# One table and one head for all depths, which have one table in the codec: equal weights.
SHARED = {"model.network.shared": ("embeds", "heads")}
# All codes of all positions in one sequence.
SEQUENCE = SHARED | {"model.network.type": "hook.FlatTransformer"}
# The name of a row, its config, the row of codec_table.py, None for the config's own autoencoder,
# and options.
TABLES: dict[str, dict[str, tuple[str, str | None, dict[str, Any]]]] = {
    "published": {"hook-vq-tiny": (AR_TINY, None, {})},
    "flows": {
        name: (FLOW, name, {}) for name in ("KL 8", "VA-VAE 8", "KL 32", "VA-VAE 32", "VFM-VAE 32")
    },
    "joint": {f"{name}, aligned flow": (ALIGNED, name, {}) for name in ("KL 32", "VFM-VAE 32")},
    "depths": {f"RQ depth {depth}": (DND, f"RQ depth {depth}", SHARED) for depth in (1, 2, 4)}
    | {f"RQ depth {depth}, flat": (AR, f"RQ depth {depth}", SEQUENCE) for depth in (2, 4)},
    "factors": {"LFQ in factors": (FACTORS, "LFQ", PAIRS | FIVE), "LFQ flat": (AR, "LFQ", {})},
    "sizes": {f"IBQ {size}": (AR, f"IBQ {size}", {}) for size in (512, 4096, 16384)},
}
# Maps at stride 16, with which the codecs may be aligned, and the last ones, of tiles enlarged
# twice.
FROZEN = dict(type="hook.FrozenBackbone", levels=(3, 4), scale=2.0)
PACKED_TILES = 64  # of a block
DRAWN = 16  # tiles of a batch whose time is measured
SHEET = 40  # generated tiles of the contact sheet
POOL = 4  # pixels along a side that are averaged where tiles are compared
TIMED = 5  # batches whose time is measured
CLASSIFIER = "hook-fast-tiny_eurosat"
# Ends of the names of measures: the frozen network's last map and that before, and the classifier.
LEVELS = ("", "_finer", "_classifier")
# Flows whose steps to the distance of another one are counted.
AGAINST = {"VA-VAE 8": "KL 8", "VA-VAE 32": "KL 32", "VFM-VAE 32": "KL 32"}
FLOW_TIME = 0.5  # of the paths at which a flow's blocks are compared with features


class Job(NamedTuple):
    """A run: table, row and seed."""

    table: str
    row: str
    seed: int

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return f"{self.table}-{slug(self.row)}_seed{self.seed}"


def slug(row: str) -> str:
    """Return the name of a row as part of a file name, as in ``codec_table.py``."""
    return "".join(c if c.isalnum() else "-" for c in row.lower())


# ------------------------------------------------------------------------------ measures
class Judge:
    """Distances of tiles to the test tiles in features of frozen networks.

    Args:
        test: The test tiles.
        device: Device of the networks.

    Attributes:
        test: Their features by level (:data:`LEVELS`).
    """

    def __init__(self, test: Tiles, device: str) -> None:
        self.network = MODELS.build(FROZEN).eval().to(device)
        self.classifier = load_model(CLASSIFIER, device=device).eval()
        self.test = self.features(test.images)

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the mean features (N, D) of each level, on the CPU, of uint8 images."""
        found: dict[str, list[Tensor]] = {level: [] for level in LEVELS}
        for part in images.split(BATCH):
            finer, last = (x.mean(dim=(2, 3)) for x in self.network(part.float() / 127.5 - 1))
            inputs = self.classifier.data_preprocessor(dict(inputs=part))["inputs"]
            tokens = self.classifier.extract_feat(inputs).mean(dim=1)
            for level, values in zip(LEVELS, (last, finer, tokens), strict=True):
                found[level].append(values)
        return {level: torch.cat(parts).double().cpu() for level, parts in found.items()}

    def distances(self, images: Tensor, **others: dict[str, Tensor]) -> dict[str, float]:
        """Return the Fréchet distances of uint8 images to features of tiles, by name and level."""
        found = self.features(images)
        return {
            name + level: frechet_distance(found[level].numpy(), features[level].numpy())
            for name, features in others.items()
            for level in LEVELS
        }


def most_similar(images: Tensor, train: Tensor) -> tuple[Tensor, float]:
    """Find the most similar training tile of each tile, in any view.

    Args:
        images: (N, C, H, W) uint8.
        train: (M, C, H, W) uint8.

    Returns:
        (N, C, H, W) these tiles in these views; and the mean over the tiles of the root mean
        squared differences, of means over ``POOL`` x ``POOL`` pixels.
    """
    small, known = (F.avg_pool2d(one.float(), POOL) for one in (images, train))
    tiles, least = torch.empty_like(images), small.new_full((len(images),), torch.inf)
    for view in views(square=True):
        turned = apply_view(known, view).flatten(1)
        for part in torch.arange(len(images), device=images.device).split(BATCH):
            distances, nearest = torch.cdist(small[part].flatten(1), turned).min(dim=1)
            closer = distances < least[part]
            least[part] = distances.where(closer, least[part])
            tiles[part[closer]] = apply_view(train[nearest[closer]], view)
    return tiles, float(least.mean()) / small[0].numel() ** 0.5


# ------------------------------------------------------------------------------ the model
def read_row(job: Job, args: argparse.Namespace) -> Config:
    """Return the config of a run.

    Raises:
        ConfigError: There is no run of the codec.
    """
    path, codec, options = TABLES[job.table][job.row]
    seed = job.seed if args.codec_seed is None else args.codec_seed
    folder = None if codec is None else args.codecs / f"{slug(codec)}_seed{seed}"
    return generator_config(path, folder, options | (args.cfg_options or {}))


@torch.no_grad()
def measure_bits(network: nn.Module, codes: Tensor, labels: Tensor, kind: str) -> dict[str, float]:
    """Return the bits of a position of codes (N, P, Q): of the network, and of frequencies alone.

    The latter are the entropies of the columns, which are added up as if they were independent, of
    ``kind="product"`` that of the codes of which they are the factors.
    """
    bits = entropy = 0.0
    for part, classes in zip(codes.split(BATCH), labels.split(BATCH), strict=True):
        bits += float(network.code_lengths(part.long(), classes).double().sum())
    for column in joined(codes, network.codebook_sizes, kind)[0].flatten(0, 1).unbind(dim=-1):
        p = torch.bincount(column).double()
        p = p[p > 0] / len(column)
        entropy -= float((p * p.log()).sum())
    positions = codes.shape[0] * codes.shape[1]
    return {"bits": bits / positions / np.log(2), "unigram_bits": entropy / np.log(2)}


def joined(codes: Tensor, sizes: Sequence[int], kind: str) -> tuple[Tensor, tuple[int, ...]]:
    """Return codes (..., Q) and their sizes; factors of a code (``"product"``) as that code."""
    if kind != "product":
        return codes, tuple(sizes)
    weights = [math.prod(sizes[number + 1 :]) for number in range(len(sizes))]
    whole = (codes.long() * torch.tensor(weights, device=codes.device)).sum(dim=-1, keepdim=True)
    return whole, (math.prod(sizes),)


def measure_bytes(generator: TileGenerator, codes: Tensor) -> dict[str, Any]:
    """Pack codes (N, P, Q) of tiles, in blocks as ``hook encode`` does, and unpack them again.

    Returns:
        Bytes of a tile with the network's probabilities, with their index and as expected from the
        probabilities, and with a table of frequencies; and the bytes of the network's weights.

    Raises:
        DataError: Codes came back as others.
    """
    if not len(codes):
        return {}
    model, codes = EntropyModel(generator), codes.long().cpu()
    whole, sizes = joined(codes, model.sizes, generator.codec.quantizer.indices_kind)
    table = pack_codes(whole.numpy(), sizes)
    if not np.array_equal(unpack_codes(table), whole.numpy()):
        raise DataError(
            "packed codes came back as others",
            expected="the codes that were packed",
            remedy="report it with these versions: " + model.versions,
        )
    values = codes.numpy()
    total, bits = packed_size(model, values, PACKED_TILES)
    sizes = {"packed": total, "packed_expected": bits / 8, "packed_table": len(table)}
    found = {f"{key}_bytes": round(size / len(values), 3) for key, size in sizes.items()}
    return found | {"packed_tiles": len(values), "network_bytes": model.bytes}


@torch.no_grad()
def measure_alignment(
    network: nn.Module, latents: Tensor, labels: Tensor, features: dict[str, Tensor]
) -> dict[str, Any]:
    """Return the CKNNA of the mean tokens after each block of a flow with frozen features.

    The blocks see points halfway between noise and normalised latents (N, P, D).

    Args:
        network: The flow.
        latents: The latents.
        labels: (N,) conditions.
        features: Mean features (N, D) of each level.

    Returns:
        ``cknna`` of each level, and of the best block the value with permuted rows.
    """
    count = len(network.blocks)
    rows: list[list[Tensor]] = [[] for _ in range(count)]
    draws = torch.Generator(latents.device).manual_seed(0)
    for part, classes in zip(latents.split(BATCH), labels.split(BATCH), strict=True):
        maps = part.float().mT.unflatten(2, network.grid)
        noise = torch.empty_like(maps).normal_(generator=draws)
        times = maps.new_full((len(maps),), FLOW_TIME)
        x = network.interpolate(noise, maps, times)[0]
        tokens = network.forward_with_tokens(x, times, classes, range(count))[1]
        for row, one in zip(rows, tokens, strict=True):
            row.append(one.mean(dim=1))
    own = [prepare_features(torch.cat(one).double()) for one in rows]
    found = {}
    for level, values in features.items():
        true, name = prepare_features(values.to(latents.device)), f"cknna{level}"
        found[name] = values = [round(cknna(one, true), 4) for one in own]
        best = own[int(np.argmax(values))]
        found[f"{name}_permuted"] = round(permuted_cknna(best, true), 4)
    return found


def measure_time(generator: TileGenerator, classes: Tensor) -> dict[str, float]:
    """Return the median milliseconds, and those of CPU time, of a tile of some classes."""
    times = []
    for seed in range(TIMED):
        begun = time.perf_counter(), time.process_time()
        generator.sample(len(classes), classes, seed=seed).cpu()  # waits for the device
        times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    wall, cpu = 1000 * np.median(times, axis=0) / len(classes)
    return dict(draw_ms=float(wall), draw_cpu_ms=float(cpu))


# ------------------------------------------------------------------------------ one run
def run(job: Job, folder: Path, judge: Judge, train: Tiles, test: Tiles, args) -> None:
    """Train a row, measure it at several steps, and write its log and samples."""
    cfg = read_row(job, args)
    start = time.perf_counter()
    torch.manual_seed(job.seed)
    generator = build_model(cfg)
    packed = args.packed if generator.target == "codes" else 0
    if packed:
        load_constriction()  # it may be missing, which is better said before the training
    generator.init_weights()
    network = generator.network
    generator.to(args.device).eval()
    count, device = args.samples, train.labels.device
    labels = generator.conditions(train.labels)
    stored = encode_views(generator, train.images, cfg.model.turn)
    aligned = getattr(network, "alignment", None) is not None
    features = encode_features(generator, train.images) if aligned else None
    held_out = encode(generator, test.images, (0, False))
    if count > min(len(train.labels), len(test.labels)):
        raise ConfigError(
            "--samples: more tiles than a split has",
            expected=f"at most {min(len(train.labels), len(test.labels))}",
            found=count,
            remedy="set fewer, or more --tiles",
        )
    report = dict(job._asdict(), iters=args.iters, amp=args.amp, samples=count)
    weights = Path(cfg.model.codec_weights)
    report["codec"] = weights.parent.name if weights.suffix else weights.name
    report["device"] = device_name(args.device)
    report["test_tiles"] = len(test.labels)
    report["parameters"] = sum(p.numel() for p in network.parameters())
    floors = {"floor": train.images[:count]}
    floors["codec_floor"] = reconstruct(generator, train.images[:count])
    floors["codec_distance"] = reconstruct(generator, test.images[:count])
    for name, images in floors.items():
        report |= judge.distances(images, **{name: judge.test})
    decoded = judge.features(reconstruct(generator, test.images))
    report["encode_s"] = time.perf_counter() - start
    report["nearest_test"] = most_similar(images, train.images)[1]
    points = {round(args.iters / 2**k) for k in range(args.points)} - {0}
    classes = torch.arange(count, device=device) % cfg.model.num_classes
    log = folder / "log.jsonl"
    log.write_text("")  # of a killed process
    total, last, seconds, start = torch.zeros((), device=device), 0, 0.0, time.perf_counter()
    course = optimize(network, stored, labels, cfg, args.iters, features, amp=args.amp)
    for step, averaged, loss in course:
        total += loss
        if step not in points:
            continue
        line = dict(step=step, loss=total.item() / (step - last))  # waits for the device
        seconds += time.perf_counter() - start
        start = time.perf_counter()
        generator.network, last = averaged, step
        images = draw(generator, classes, job.seed)
        line |= judge.distances(images, distance=judge.test, own_distance=decoded)
        if generator.target == "codes":
            kind = generator.codec.quantizer.indices_kind
            line |= measure_bits(averaged, held_out, generator.conditions(test.labels), kind)
            if step == args.iters:
                line |= measure_bytes(generator, held_out[:packed])
        else:
            levels = {level: values[:count] for level, values in judge.test.items()}
            seen = held_out[:count], test.labels[:count]
            line |= measure_alignment(averaged, *seen, levels)
        if step == args.iters:
            line |= measure_time(generator, classes[:DRAWN])
            nearest, line["nearest"] = most_similar(images, train.images)
        line |= dict(train_s=seconds, measure_s=time.perf_counter() - start)
        with log.open("a") as file:
            file.write(json.dumps(report | line) + "\n")
        print(f"{job.folder}: step {step}, distance {line['distance']:.3f}", flush=True)
        total.zero_()
        start = time.perf_counter()
    cfg.dump(folder / "config.py")
    save_weights(generator.state_dict(), folder / "model.pth", overwrite=True)
    # Columns of a class, and beside each the most similar training tiles.
    pairs = torch.stack([images[:SHEET], nearest[:SHEET]], dim=1).flatten(0, 1)
    sheet = make_grid(pairs.cpu(), nrow=2 * cfg.model.num_classes)
    save_png(folder / "samples.png", sheet.permute(1, 2, 0).numpy())


# ------------------------------------------------------------------------------ all runs
def list_jobs(args: argparse.Namespace) -> list[Job]:
    """List the runs: the first seed of all tables, then the others.

    Raises:
        ConfigError: A row is in none of the tables.
    """
    rows = [(table, row) for table in args.tables for row in TABLES[table]]
    names = [row for _, row in rows]
    for name in args.rows or ():
        if name not in names:
            raise ConfigError(
                f"--rows: {name!r} is in none of the tables",
                expected=", ".join(names),
                found=name,
            )
    rows = [(table, row) for table, row in rows if row in (args.rows or names)]
    first, *others = args.seeds
    jobs = [Job(*row, first) for row in rows]
    for table in args.tables:
        jobs += [Job(*row, seed) for seed in others for row in rows if row[0] == table]
    return jobs


def write_tables(folder: Path) -> str:
    """Write ``table.csv`` (all measurements) and ``table.md`` (a line per run), if finished."""
    runs = []
    for mark in sorted(folder.glob("*/finished")):
        log = mark.with_name("log.jsonl")
        runs.append([json.loads(line) for line in log.read_text().splitlines()])
    if not runs:
        return ""
    heads = list(dict.fromkeys(key for one in runs for line in one for key in line))
    with atomic_write(folder / "table.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, heads)
        writer.writeheader()
        writer.writerows(line for one in runs for line in one)
    rows = [_row(one) for one in sorted(runs, key=_place)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns.sort(key=lambda name: int(name.split()[1]) if name.startswith("at ") else -1)
    text = "| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|\n"
    for row in rows:
        text += "| " + " | ".join(str(row.get(name, "-")) for name in columns) + " |\n"
    runs.sort(key=_place)
    last = runs[0][-1]
    text += (
        f"\nDistances of {last['samples']} tiles to {last['test_tiles']} test tiles in features "
    )
    text += f"of EfficientNet-Lite0 / of {CLASSIFIER}.\n" + _means(runs) + _blocks_over_steps(runs)
    with atomic_write(folder / "table.md") as partial:
        partial.write_text(text)
    return text


def _blocks_over_steps(runs: list[list[dict]]) -> str:
    """Return the CKNNA of the blocks of flows over the steps, as a second table."""
    logs = [line for lines in runs for line in lines if "cknna_finer" in line]
    if not logs:
        return ""
    count = max(len(line["cknna"]) for line in logs)
    heads = ["table", "row", "seed", "step", "level", *(f"block {k}" for k in range(count))]
    text = "\n" + "| " + " | ".join([*heads, "permuted"]) + " |\n"
    text += "| --- " * (len(heads) + 1) + "|\n"
    for line in logs:
        names = ("cknna", "last"), ("cknna_finer", "finer"), ("cknna_classifier", "classifier")
        for name, level in names:
            values = [f"{value:.3f}" for value in line[name]]
            values += ["-"] * (count - len(values)) + [f"{line[f'{name}_permuted']:.3f}"]
            facts = [str(line[key]) for key in ("table", "row", "seed", "step")]
            text += "| " + " | ".join([*facts, level, *values]) + " |\n"
    return text


def _place(lines: list[dict]) -> tuple:
    """Return the place of a run in the table."""
    one, tables = lines[0], list(TABLES)
    rows = list(TABLES[one["table"]])
    return tables.index(one["table"]), rows.index(one["row"]), one["seed"]


def _row(lines: list[dict]) -> dict[str, str]:
    """Return a run as a line of ``table.md``.

    Distances are those of the frozen network's last level and of the classifier.
    """
    last = lines[-1]
    row = {key: last[key] for key in ("table", "row", "seed")}
    row["weights"] = f"{last['parameters'] / 1e6:.2f} M"
    row["ms/step"] = f"{1000 * last['train_s'] / last['step']:.1f}"
    row["ms/tile"] = f"{last['draw_ms']:.0f}"
    row |= {"floor": _pair(last, "floor"), "codec": _pair(last, "codec_floor")}
    row["nearest"] = f"{last['nearest']:.1f} ({last['nearest_test']:.1f})"
    if "bits" in last:
        row |= {"bits": f"{last['bits']:.3f}", "unigram": f"{last['unigram_bits']:.3f}"}
    if "packed_bytes" in last:
        own, table = last["packed_bytes"], last["packed_table_bytes"]
        row |= {"packed B": f"{own:.1f}", "by estimate": f"{last['packed_expected_bytes']:.1f}"}
        row |= {"by table": f"{table:.1f}", "saved": f"{100 * (1 - own / table):.1f} %"}
    if "cknna" in last:
        row["CKNNA"] = f"{max(last['cknna']):.3f} ({last['cknna_permuted']:.3f})"
    return row | {f"at {line['step']}": _pair(line, "distance") for line in lines}


def _pair(line: dict, name: str) -> str:
    return f"{line[name]:.2f} / {line[f'{name}_classifier']:.2f}"


def _means(runs: list[list[dict]]) -> str:
    """Return means over the seeds and their standard deviations, as another table."""
    heads: dict[str, Callable[[dict], float]] = {
        "distance": lambda line: line["distance"],
        "of the classifier": lambda line: line["distance_classifier"],
        "own distance": lambda line: line["own_distance"],
        "own of the classifier": lambda line: line["own_distance_classifier"],
        "bits": lambda line: line["bits"],
        "saved, %": lambda line: 100 * (1 - line["packed_bytes"] / line["packed_table_bytes"]),
        "CKNNA": lambda line: max(line["cknna"]),
        "CKNNA of the classifier": lambda line: max(line["cknna_classifier"]),
    }
    fewer = {"times fewer steps": "distance", "to the own distance": "own_distance"}
    groups: dict[tuple[str, str], dict[int, list[dict]]] = {}
    for lines in runs:
        groups.setdefault((lines[0]["table"], lines[0]["row"]), {})[lines[0]["seed"]] = lines
    text = "\n| " + " | ".join(["table", "row", "seeds", *heads, *fewer]) + " |\n"
    text += "| --- " * (len(heads) + len(fewer) + 3) + "|\n"
    for (table, row), seeds in groups.items():
        cells = [table, row, str(len(seeds))]
        for value in heads.values():
            try:
                cells.append(_mean([value(lines[-1]) for lines in seeds.values()]))
            except KeyError:  # codes have no CKNNA, flows no bits
                cells.append("-")
        others = groups.get((table, AGAINST.get(row, "")), {})
        shared = sorted(seeds.keys() & others.keys())
        for name in fewer.values():
            ratios = [
                " / ".join(
                    _fewer_steps(seeds[seed], others[seed], name + level)
                    for level in ("", "_classifier")
                )
                for seed in shared
            ]
            cells.append(", ".join(ratios) or "-")
        text += "| " + " | ".join(cells) + " |\n"
    return text


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def _fewer_steps(lines: list[dict], others: list[dict], name: str) -> str:
    """Return the ratio of the steps to the distance ``name`` at which another run ends.

    Steps between two measurements are interpolated, with the logarithm of the steps.
    """
    wanted, before = others[-1][name], None
    for line in lines:
        step, distance = math.log(line["step"]), line[name]
        if distance <= wanted:
            if before is not None:
                share = (before[1] - wanted) / (before[1] - distance)
                step = before[0] + share * (step - before[0])
            return f"{others[-1]['step'] / math.exp(step):.2f}" + (" or more" if not before else "")
        before = step, distance
    return "less than 1"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=sorted(TABLES))
    parser.add_argument("--rows", nargs="+", help="rows (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--codecs", type=Path, default=Path("work_dirs/codecs"), help="runs of codec_table.py"
    )
    parser.add_argument(
        "--codec-seed", type=int, help="seed of the codecs (default: that of the run)"
    )
    parser.add_argument("--iters", type=int, default=2000, help="steps of a run (default 2000)")
    parser.add_argument("--points", type=int, default=5, help="measurements (default 5)")
    parser.add_argument(
        "--samples", type=int, default=1000, help="tiles of a measurement (default 1000)"
    )
    parser.add_argument("--tiles", type=int, help="tiles of each split (default: all)")
    parser.add_argument(
        "--packed",
        type=int,
        default=1000,
        help="test tiles whose codes are packed at the end (default 1000; 0: none)",
    )
    add_queue_options(parser, "generators")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    setup_environment()
    args.device = list_devices(args.device)[0]
    if args.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")  # TF32
    make_folder(args.out, "--out")

    @cache
    def data() -> tuple[Judge, Tiles, Tiles]:
        test, train = (Tiles(args.data, s, args.tiles, args.device) for s in ("test", "train"))
        return Judge(test, args.device), train, test

    queue = Queue(
        args,
        ("iters", "points", "samples", "tiles", "packed", "codec_seed"),
        run=lambda job, folder: run(job, folder, *data(), args),
        check=lambda job: read_row(job, args),
    )
    queue.work(list_jobs(args))
    print(write_tables(args.out), flush=True)
    return int(queue.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
