r"""Train the generators of tables over the codecs of ``codec_table.py``, and measure their tiles.

Each row is a config of ``configs/generators`` over a codec's run in ``--codecs``, trained for
``--iters`` steps in memory: codes or latents of all training tiles, in all their views, are
computed once and stay on the device. The schedule is that of the config, as shares of the steps. At
``--points`` steps, each twice the one before, ``--samples`` tiles are drawn with the averaged
weights, classes in equal shares. Their Fréchet distance to the test tiles is measured in the mean
features of EfficientNet-Lite0 (never called FID: that is another network), beside those of as many
training tiles, as they are and decoded by the codec. Of codes also the bits of a position on test
tiles are measured, and of flows the CKNNA of each block with these features.

    python tools/analysis_tools/generator_table.py flows depths factors sizes --seeds 0 1 2 \
        --codecs work_dirs/codecs --data data/eurosat_rgb_15k --out work_dirs/generators \
        --iters 2000 --device cuda

Several processes with the same ``--out`` share the rows. A finished run is not run again, and one
whose process was killed starts anew. Each run has a folder with ``log.jsonl`` (a line per
measurement) and ``samples.png``; ``table.md`` and ``table.csv`` hold all.
"""

import argparse
import csv
import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.utils import make_grid

from hook.engine.configs import (
    add_config_options,
    build_dataset,
    load_config,
    make_folder,
    setup_environment,
)
from hook.engine.devices import list_devices
from hook.engine.models import build_model
from hook.engine.profiling import device_name
from hook.engine.tta import apply_view, views
from hook.errors import ConfigError, HookError, reports_errors
from hook.evaluation.alignment import cknna, permuted_cknna, prepare_features
from hook.evaluation.frechet import frechet_distance
from hook.geo.staging import atomic_write, save_png
from hook.models import TileGenerator
from hook.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "generators"
FLOW = "lightningdit/lightningdit-256x6_kl-32_eurosat-2k-64"
AR, DND = "ar/ar-256x6_vq-1k_eurosat-2k-64", "dnd/dnd-256x6_rq-1k-d2_eurosat-2k-64"
FACTORS = "factorized/factorized-256x6_lfq-1k_eurosat-2k-64"
PAIRS = {"model.codec.quantizer.factors": (5, 5)}
# Blocks over positions and over factors that have about as many weights as six blocks and the
# tables of 1,024 codes.
FIVE = {"model.network.depth": 5, "model.network.factor_depth": 2}
# The name of a row, its config, the row of codec_table.py, and options.
TABLES: dict[str, dict[str, tuple[str, str, dict[str, Any]]]] = {
    "flows": {
        name: (FLOW, name, {}) for name in ("KL 8", "VA-VAE 8", "KL 32", "VA-VAE 32", "VFM-VAE 32")
    },
    "depths": {f"RQ depth {depth}": (DND, f"RQ depth {depth}", {}) for depth in (1, 2, 4)},
    "factors": {"LFQ in factors": (FACTORS, "LFQ", PAIRS | FIVE), "LFQ flat": (AR, "LFQ", {})},
    "sizes": {f"IBQ {size}": (AR, f"IBQ {size}", {}) for size in (512, 4096, 16384)},
}
# Maps at stride 16, with which the codecs may be aligned, and the last ones, of tiles enlarged
# twice.
FROZEN = dict(type="hook.FrozenBackbone", levels=(3, 4), scale=2.0)
BATCH = 250  # of passes without gradients
SHEET = 40  # tiles of the contact sheet
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


# ------------------------------------------------------------------------------ data
class Tiles:
    """Tiles of a split on a device, in a random order of its own in which classes alternate.

    Args:
        data: Folder of EuroSAT RGB with ``splits``.
        split: ``"train"`` or ``"test"``.
        count: Number of tiles; None: all.
        device: Where they are kept.

    Attributes:
        images: (N, 3, 64, 64) uint8.
        labels: (N,) int64.
    """

    def __init__(self, data: Path, split: str, count: int | None, device: str) -> None:
        cfg = load_config(CONFIGS / f"{AR}.py")
        dataset = build_dataset(cfg, split, lambda section: section | dict(data_root=str(data)))
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        labels = np.array([info["gt_label"] for info in infos])
        order = np.random.default_rng(0).permutation(len(infos))
        order = order[np.argsort(labels[order], kind="stable")]
        # How many of its class are before a tile: first come the first ones of all classes.
        ranks = np.concatenate([np.arange(n) for n in np.bincount(labels)])
        order = order[np.argsort(ranks, kind="stable")][:count]
        # Not through the pipeline, which takes eight times as long.
        images = np.stack([np.asarray(Image.open(infos[index]["img_path"])) for index in order])
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
        self.labels = torch.from_numpy(labels[order]).to(device)


class Judge:
    """Distances of tiles to the test tiles in features of a frozen network.

    Args:
        test: The test tiles.
        device: Device of the network.
    """

    def __init__(self, test: Tiles, device: str) -> None:
        self.network = MODELS.build(FROZEN).eval().to(device)
        self.test = self.features(test.images)

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """Return the mean features (N, D) of each level, on the CPU, of uint8 images."""
        parts = [self.network(part.float() / 127.5 - 1) for part in images.split(BATCH)]
        return [
            torch.cat([level.mean(dim=(2, 3)) for level in levels]).double().cpu()
            for levels in zip(*parts, strict=True)
        ]

    def distances(self, images: Tensor) -> tuple[float, float]:
        """Return the Fréchet distances of uint8 images to the test tiles, last level first."""
        pairs = zip(self.features(images), self.test, strict=True)
        finer, last = (frechet_distance(own.numpy(), true.numpy()) for own, true in pairs)
        return last, finer


# ------------------------------------------------------------------------------ the model
def read_row(job: Job, args: argparse.Namespace) -> Config:
    """Return the config of a run.

    Raises:
        ConfigError: There is no run of the codec.
    """
    path, codec, options = TABLES[job.table][job.row]
    seed = job.seed if args.codec_seed is None else args.codec_seed
    folder = args.codecs / f"{slug(codec)}_seed{seed}"
    pointer = folder / "last_checkpoint"
    if not pointer.is_file():
        raise ConfigError(
            f"there is no trained codec {codec}, seed {seed}",
            expected=str(pointer),
            found="no such file",
            remedy="train it with codec_table.py, or choose --codecs and --codec-seed",
        )
    cfg = load_config(CONFIGS / f"{path}.py")
    cfg.model.codec = load_config(folder / "config.py").model
    # A folder of runs may have moved since.
    cfg.model.codec_weights = str(folder / Path(pointer.read_text().strip()).name)
    cfg.merge_from_dict(options | (args.cfg_options or {}))
    return cfg


@torch.no_grad()
def encode(generator: TileGenerator, images: Tensor, view: tuple[int, bool]) -> Tensor:
    """Return codes (N, P, Q) int32, or latents (N, P, D) float16, of a view of uint8 images."""
    kind = torch.int32 if generator.target == "codes" else torch.float16
    found = []
    for part in images.split(BATCH):
        inputs = dict(inputs=apply_view(part, view))
        found.append(generator(generator.data_preprocessor(inputs)["inputs"]).to(kind))
    return torch.cat(found)


def encode_views(generator: TileGenerator, images: Tensor, turn: bool) -> Tensor:
    """Return codes or normalised latents (V, N, P, ...) of all views; see :func:`encode`.

    The generator gets the mean and deviation of the latents of the first view, the images as they
    are.
    """
    if generator.target == "latents":
        generator.feature_std.fill_(1)  # to encode them as they are
        latents = encode(generator, images, (0, False)).double().flatten(0, 1)
        generator.feature_mean.copy_(latents.mean(dim=0))
        generator.feature_std.copy_(latents.std(dim=0).clamp(min=1e-4))
    chosen = list(views(square=True)) if turn else [(0, False)]
    return torch.stack([encode(generator, images, view) for view in chosen])


@torch.no_grad()
def reconstruct(generator: TileGenerator, images: Tensor) -> Tensor:
    """Return uint8 images through the codec."""
    found = []
    for part in images.split(BATCH):
        inputs = generator.data_preprocessor(dict(inputs=part))["inputs"]
        codes = generator.codec.encode(inputs)
        decoded = generator.codec.decode(codes.latents, codes.grid, generator.tile_size)
        found.append(as_bytes(generator.data_preprocessor.restore(decoded)))
    return torch.cat(found)


def as_bytes(images: Tensor) -> Tensor:
    """Round images in the units of the data to uint8."""
    return images.round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def draw(generator: TileGenerator, labels: Tensor, seed: int) -> Tensor:
    """Draw a tile for each class of ``labels`` (N,); return uint8 images.

    Codes are drawn on the device: ``generator.sample`` draws them on the CPU, so that they are the
    same on all devices, which takes seconds for large tables.
    """
    source = torch.Generator(labels.device).manual_seed(seed)

    def choose(logits: Tensor, position: int, column: int) -> Tensor:
        noise = torch.empty_like(logits).exponential_(generator=source).log()  # minus Gumbel
        return (logits - noise).argmax(dim=-1)

    found = []
    for start in range(0, len(labels), BATCH):
        part = labels[start : start + BATCH]
        if generator.target == "latents":
            sampled = generator.sample(len(part), part, seed=seed, first=start)
        else:
            sampled = generator.network.walk(generator.conditions(part), choose)
            if generator.codec.quantizer.indices_kind == "single":
                sampled = sampled[..., 0]
        found.append(as_bytes(generator.decode(sampled)))
    return torch.cat(found)


@torch.no_grad()
def measure_bits(network: nn.Module, codes: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the bits of a position of codes (N, P, Q): of the network, and of frequencies alone.

    The latter are the entropies of the columns, which are added up as if they were independent.
    """
    bits = entropy = 0.0
    for part, classes in zip(codes.split(BATCH), labels.split(BATCH), strict=True):
        bits += float(network.code_lengths(part.long(), classes).double().sum())
    for column in codes.flatten(0, 1).unbind(dim=-1):
        p = torch.bincount(column).double()
        p = p[p > 0] / len(column)
        entropy -= float((p * p.log()).sum())
    positions = codes.shape[0] * codes.shape[1]
    return {"bits": bits / positions / np.log(2), "unigram_bits": entropy / np.log(2)}


@torch.no_grad()
def measure_alignment(
    network: nn.Module, latents: Tensor, labels: Tensor, features: Tensor
) -> dict[str, Any]:
    """Return the CKNNA of the mean tokens after each block of a flow with features (N, D).

    The blocks see points halfway between noise and normalised latents (N, P, D).
    """
    rows: list[list[Tensor]] = [[] for _ in network.blocks]

    def keep(number: int):
        return lambda block, inputs, tokens: rows[number].append(tokens.mean(dim=1))

    hooks = [one.register_forward_hook(keep(k)) for k, one in enumerate(network.blocks)]
    draws = torch.Generator(latents.device).manual_seed(0)
    try:
        for part, classes in zip(latents.split(BATCH), labels.split(BATCH), strict=True):
            maps = part.float().mT.unflatten(2, network.grid)
            noise = torch.empty_like(maps).normal_(generator=draws)
            times = maps.new_full((len(maps),), FLOW_TIME)
            network(network.interpolate(noise, maps, times)[0], times, classes)
    finally:
        for hook in hooks:
            hook.remove()
    true = prepare_features(features.to(latents.device))
    own = [prepare_features(torch.cat(one).double()) for one in rows]
    values = [round(cknna(one, true), 4) for one in own]
    best = own[int(np.argmax(values))]
    return {"cknna": values, "cknna_permuted": round(permuted_cknna(best, true), 4)}


# ------------------------------------------------------------------------------ one run
def optimize(
    network: nn.Module, stored: Tensor, labels: Tensor, cfg: Config, steps: int
) -> Iterator[tuple[int, nn.Module, Tensor]]:
    """Train a network on random batches; yield step, averaged network and loss after each step.

    Args:
        network: The network, on the device of the data.
        stored: (V, N, P, ...) of :func:`encode_views`.
        labels: (N,) conditions.
        cfg: Config of the run.
        steps: Number of steps.
    """
    wrapper, size = cfg.optim_wrapper, cfg.train_dataloader.batch_size
    options = {key: value for key, value in wrapper.optimizer.items() if key != "type"}
    flat = [p for p in network.parameters() if p.ndim < 2]
    others = [p for p in network.parameters() if p.ndim > 1]
    # Two groups for all weights, where MMEngine's constructor makes one for each.
    groups = [dict(params=others), dict(params=flat, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, **options)
    ends, rates = schedule_of(cfg)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: float(np.interp(step / steps, ends, rates))
    )
    (averages,) = (one for one in cfg.custom_hooks if one.type == "EMAHook")
    average = get_ema_multi_avg_fn(1 - averages.momentum)
    averaged = AveragedModel(network, multi_avg_fn=average)
    averaged.update_parameters(network)  # the first only copies the weights
    averaged.module.eval()
    kind = torch.float32 if stored.is_floating_point() else torch.int64
    network.train()
    for step in range(1, steps + 1):
        index = torch.randint(len(labels), (size,), device=labels.device)
        view = torch.randint(len(stored), (size,), device=labels.device)
        losses = network.loss(stored[view, index].to(kind), labels[index])
        loss = sum(losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), **wrapper.clip_grad)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(network)
        yield step, averaged.module, loss.detach()


def schedule_of(cfg: Config) -> tuple[list[float], list[float]]:
    """Return the corners of the rates of a config: shares of the steps, and factors of the rate."""
    warm_up, fall = cfg.param_scheduler
    total = cfg.train_cfg.max_epochs
    ends = [0, warm_up.end / total, fall.begin / total, fall.end / total]
    return ends, [warm_up.start_factor, 1.0, fall.start_factor, fall.end_factor]


def run(job: Job, folder: Path, judge: Judge, train: Tiles, test: Tiles, args) -> None:
    """Train a row, measure it at several steps, and write its log and samples."""
    cfg = read_row(job, args)
    start = time.perf_counter()
    torch.manual_seed(job.seed)
    generator = build_model(cfg)
    generator.init_weights()
    network = generator.network
    generator.to(args.device).eval()
    count, device = args.samples, train.labels.device
    labels = generator.conditions(train.labels)
    stored = encode_views(generator, train.images, cfg.model.turn)
    held_out = encode(generator, test.images, (0, False))
    some = reconstruct(generator, train.images[:count])
    report = dict(job._asdict(), iters=args.iters, samples=count)
    report |= dict(codec=Path(cfg.model.codec_weights).parent.name, device=device_name(args.device))
    report["parameters"] = sum(p.numel() for p in network.parameters())
    floors = {"floor": train.images[:count], "codec_floor": some}
    floors["codec_distance"] = reconstruct(generator, test.images)
    for name, images in floors.items():
        report[name], report[f"{name}_finer"] = judge.distances(images)
    report["encode_s"] = time.perf_counter() - start
    points = {round(args.iters / 2**k) for k in range(args.points)} - {0}
    classes = torch.arange(count, device=device) % cfg.model.num_classes
    log = folder / "log.jsonl"
    log.write_text("")  # of a killed process
    total, last, seconds, start = torch.zeros((), device=device), 0, 0.0, time.perf_counter()
    for step, averaged, loss in optimize(network, stored, labels, cfg, args.iters):
        total += loss
        if step not in points:
            continue
        line = dict(step=step, loss=total.item() / (step - last))  # waits for the device
        seconds += time.perf_counter() - start
        start = time.perf_counter()
        generator.network, last = averaged, step
        images = draw(generator, classes, job.seed)
        line["distance"], line["distance_finer"] = judge.distances(images)
        if generator.target == "codes":
            line |= measure_bits(averaged, held_out, generator.conditions(test.labels))
        else:
            seen = (held_out[:count], test.labels[:count], judge.test[-1][:count])
            line |= measure_alignment(averaged, *seen)
        line |= dict(train_s=seconds, measure_s=time.perf_counter() - start)
        with log.open("a") as file:
            file.write(json.dumps(report | line) + "\n")
        print(f"{job.folder}: step {step}, distance {line['distance']:.3f}", flush=True)
        total.zero_()
        start = time.perf_counter()
    sheet = make_grid(images[:SHEET].cpu(), nrow=cfg.model.num_classes)
    save_png(folder / "samples.png", sheet.permute(1, 2, 0).numpy())
    (folder / "finished").touch()


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


class Queue:
    """Runs rows one after the other, beside other processes with the same ``--out``.

    Args:
        args: The arguments of the command.

    Attributes:
        failed: Number of failed runs.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.failed = args, 0
        self.end = time.monotonic() + 60 * args.minutes

    @cached_property
    def data(self) -> tuple[Judge, Tiles, Tiles]:
        """The judge, and the training and test tiles, read when the first run begins."""
        args = self.args
        test, train = (Tiles(args.data, s, args.tiles, args.device) for s in ("test", "train"))
        return Judge(test, args.device), train, test

    def work(self, jobs: list[Job]) -> None:
        """Run what is neither finished nor running elsewhere."""
        for job in jobs:
            folder = self.args.out / job.folder
            try:
                read_row(job, self.args)
            except ConfigError as error:  # the codec may be trained later
                print(f"{job.folder} is skipped: {error}", file=sys.stderr, flush=True)
                continue
            make_folder(folder, "--out")
            # The system frees the lock of a killed process.
            with suppress(Timeout), FileLock(folder / "lock", blocking=False):
                if (folder / "finished").is_file():
                    continue
                if time.monotonic() > self.end:
                    print(f"{job.folder} is not run: --minutes are over", file=sys.stderr)
                    return
                self._run(job, folder)

    def _run(self, job: Job, folder: Path) -> None:
        try:
            run(job, folder, *self.data, self.args)
        except Exception as error:  # the other rows are worth their time
            self.failed += 1
            if not isinstance(error, HookError):
                traceback.print_exc()
            print(f"{job.folder} failed: {error}", file=sys.stderr, flush=True)


def write_tables(folder: Path) -> str:
    """Write ``table.csv`` (all measurements) and ``table.md`` (a line per run) of all logs."""
    runs = []
    for log in sorted(folder.glob("*/log.jsonl")):
        # The last line of a process that was killed may be incomplete.
        lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
        runs += [[json.loads(line) for line in lines]] if lines else []
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
    with atomic_write(folder / "table.md") as partial:
        partial.write_text(text)
    return text


def _place(lines: list[dict]) -> tuple:
    """Return the place of a run in the table."""
    one, tables = lines[0], list(TABLES)
    rows = list(TABLES[one["table"]])
    return tables.index(one["table"]), rows.index(one["row"]), one["seed"]


def _row(lines: list[dict]) -> dict[str, str]:
    """Return a run as a line of ``table.md``; distances are those of the last level."""
    last = lines[-1]
    row = {key: last[key] for key in ("table", "row", "seed")}
    row["weights"] = f"{last['parameters'] / 1e6:.2f} M"
    row["ms/step"] = f"{1000 * last['train_s'] / last['step']:.1f}"
    row |= {"floor": f"{last['floor']:.2f}", "codec": f"{last['codec_floor']:.2f}"}
    if "bits" in last:
        row |= {"bits": f"{last['bits']:.3f}", "unigram": f"{last['unigram_bits']:.3f}"}
    if "cknna" in last:
        row["CKNNA"] = f"{max(last['cknna']):.3f} ({last['cknna_permuted']:.3f})"
    return row | {f"at {line['step']}": f"{line['distance']:.2f}" for line in lines}


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
    parser.add_argument(
        "--data", type=Path, default=Path("data/eurosat_rgb_15k"), help="EuroSAT RGB, with splits"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("work_dirs/generators"), help="runs and tables"
    )
    parser.add_argument("--iters", type=int, default=2000, help="steps of a run (default 2000)")
    parser.add_argument("--points", type=int, default=5, help="measurements (default 5)")
    parser.add_argument(
        "--samples", type=int, default=1000, help="tiles of a measurement (default 1000)"
    )
    parser.add_argument("--tiles", type=int, help="tiles of each split (default: all)")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="after these no new run begins"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add_config_options(parser)
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    setup_environment()
    args.device = list_devices(args.device)[0]
    if args.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")  # TF32
    make_folder(args.out, "--out")
    queue = Queue(args)
    queue.work(list_jobs(args))
    print(write_tables(args.out), flush=True)
    return int(queue.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
