"""Queues of trainings in memory, and generators trained and sampled in them."""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hook.engine.configs import add_config_options, build_dataset, load_config, make_folder
from hook.engine.runner import keep_freed_memory
from hook.engine.tta import apply_view, views
from hook.errors import ConfigError, HookError
from hook.models import TileGenerator

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "generators"
AR = "ar/ar-256x6_vq-1k_eurosat-2k-64"
BATCH = 250  # of passes without gradients


# ------------------------------------------------------------------------------ jobs
class Queue:
    """Runs jobs one after the other, beside other processes with the same folder.

    Args:
        args: Options of :func:`add_queue_options`. Each run has a folder of the name
            ``job.folder`` in ``--out``; after ``--minutes`` no new one begins.
        options: Names of further options that results depend on. A finished run with others is
            refused.
        run: Called with a job and its folder, in which it keeps its results.
        check: Called with a job before; raises ConfigError for one that cannot be run yet.

    Attributes:
        failed: Number of runs that failed or were refused.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        options: Iterable[str],
        run: Callable[[Any, Path], None],
        check: Callable[[Any], Any] = lambda job: None,
    ) -> None:
        self.out, self.failed = args.out, 0
        values = {name: getattr(args, name) for name in ("amp", "cfg_options", *options)}
        self._options = json.dumps(values, default=str)
        self._run, self._check, self._end = run, check, time.monotonic() + 60 * args.minutes

    def work(self, jobs: Iterable[Any]) -> None:
        """Run what is neither finished nor running elsewhere."""
        keep_freed_memory()
        for job in jobs:
            folder = self.out / job.folder
            try:
                self._check(job)
            except ConfigError as error:  # what it needs may be made later
                print(f"{job.folder} is skipped: {error}", file=sys.stderr, flush=True)
                continue
            make_folder(folder, "--out")
            # The system frees the lock of a killed process.
            with suppress(Timeout), FileLock(folder / "lock", blocking=False):
                finished = folder / "finished"
                if finished.is_file():
                    self._compare(finished.read_text(), job)
                    continue
                if time.monotonic() > self._end:
                    print(f"{job.folder} is not run: --minutes are over", file=sys.stderr)
                    return
                self._try(job, folder)

    def _compare(self, options: str, job: Any) -> None:
        if options == self._options:
            return
        self.failed += 1
        print(
            f"{job.folder} is refused: a finished run with other options\n"
            f"  expected: {self._options}\n  found: {options}\n  remedy: choose another --out",
            file=sys.stderr,
            flush=True,
        )

    def _try(self, job: Any, folder: Path) -> None:
        try:
            self._run(job, folder)
            (folder / "finished").write_text(self._options)
        except Exception as error:  # the other rows are worth their time
            self.failed += 1
            if not isinstance(error, HookError):
                traceback.print_exc()
            print(f"{job.folder} failed: {error}", file=sys.stderr, flush=True)


def add_queue_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the options of data, output and queue that the tables have in common."""
    parser.add_argument(
        "--data", type=Path, default=Path("data/eurosat_rgb_15k"), help="EuroSAT RGB, with splits"
    )
    parser.add_argument("--out", type=Path, default=Path("work_dirs", out), help="runs and tables")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="after these no new run begins"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add_config_options(parser)


def generator_config(path: str, codec: Path | None, options: dict[str, Any]) -> Config:
    """Return the config of a generator over a codec.

    Args:
        path: Config below ``configs/generators``, without the suffix.
        codec: Folder of a run of ``codec_table.py``; None: the config's own autoencoder.
        options: Dotted keys to override.

    Raises:
        ConfigError: There is no run of the codec.
    """
    cfg = load_config(CONFIGS / f"{path}.py")
    if codec is None:
        cfg.merge_from_dict(options)
        return cfg
    pointer = codec / "last_checkpoint"
    if not pointer.is_file():
        raise ConfigError(
            f"there is no trained codec {codec.name}",
            expected=str(pointer),
            found="no such file",
            remedy="train it with codec_table.py, or choose --codecs and --codec-seed",
        )
    cfg.model.codec = load_config(codec / "config.py").model
    # A folder of runs may have moved since.
    cfg.model.codec_weights = str(codec / Path(pointer.read_text().strip()).name)
    cfg.merge_from_dict(options)
    return cfg


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
        names: Files of the tiles, ``Class/file``.
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
        self.names = ["/".join(Path(infos[index]["img_path"]).parts[-2:]) for index in order]


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
def encode_features(generator: TileGenerator, images: Tensor) -> Tensor:
    """Return the features (N, D, h, w) float16 towards which a flow is drawn, of uint8 images."""
    parts = (generator.data_preprocessor(dict(inputs=part)) for part in images.split(BATCH))
    return torch.cat([generator.frozen(part["inputs"]).half() for part in parts])


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


def draw_categorical(logits: Tensor, source: torch.Generator) -> Tensor:
    """Draw an index of each row of ``logits`` (..., K): a random number per row, not per index."""
    below = logits.softmax(dim=-1).cumsum(dim=-1)
    ends = below[..., -1:]
    places = torch.empty_like(ends).uniform_(generator=source) * ends
    return (below <= places).sum(dim=-1).clamp(max=below.shape[-1] - 1)


@torch.no_grad()
def draw(generator: TileGenerator, labels: Tensor, seed: int) -> Tensor:
    """Draw a tile for each class of ``labels`` (N,); return uint8 images.

    Codes are drawn on the device: ``generator.sample`` draws them on the CPU, so that they are the
    same on all devices, which takes seconds for large tables.
    """
    source = torch.Generator(labels.device).manual_seed(seed)

    def choose(logits: Tensor, position: int, column: int) -> Tensor:
        return draw_categorical(logits, source)

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


# ------------------------------------------------------------------------------ training
def optimize(
    network: nn.Module,
    stored: Tensor,
    labels: Tensor,
    cfg: Config,
    steps: int,
    features: Tensor | None = None,
    pool: Tensor | None = None,
    amp: bool = False,
) -> Iterator[tuple[int, nn.Module, Tensor]]:
    """Train a network on random batches; yield step, averaged network and loss after each step.

    Args:
        network: The network, on the device of the data.
        stored: (V, N, P, ...) of :func:`encode_views`.
        labels: (N,) conditions.
        cfg: Config of the run.
        steps: Number of steps.
        features: (N, D, h, w) of :func:`encode_features`; None: the network is not aligned.
        pool: (M,) numbers of the tiles to draw from, some of them several times; None: each once.
        amp: Autocast to bfloat16.
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

    def average(own: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        # The first weights are forgotten soon, which matters for what is measured early.
        decay = min(1 - averages.momentum, float((1 + count) / (10 + count)))
        torch._foreach_lerp_(own, current, 1 - decay)

    averaged = AveragedModel(network, multi_avg_fn=average)
    averaged.update_parameters(network)  # the first only copies the weights
    averaged.module.eval()
    kind = torch.float32 if stored.is_floating_point() else torch.int64
    network.train()
    more: tuple[Tensor, ...] = ()
    for step in range(1, steps + 1):
        index = torch.randint(len(labels if pool is None else pool), (size,), device=labels.device)
        index = index if pool is None else pool[index]
        view = torch.randint(len(stored), (size,), device=labels.device)
        if features is not None:
            more = None, turned(features[index].float(), view, len(stored))
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=amp):
            losses = network.loss(stored[view, index].to(kind), labels[index], *more)
            loss = sum(losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), **wrapper.clip_grad)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(network)
        yield step, averaged.module, loss.detach()


def turned(maps: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Return square maps (B, D, h, h) in the views of these numbers (B,), of ``count`` views."""
    places = torch.arange(maps.shape[2] * maps.shape[3], device=maps.device).view(maps.shape[2:])
    chosen = list(views(square=True))[:count]
    table = torch.stack([apply_view(places, view).flatten() for view in chosen])
    order = table[numbers][:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, order).view_as(maps)


def schedule_of(cfg: Config) -> tuple[list[float], list[float]]:
    """Return the corners of the rates of a config: shares of the steps, and factors of the rate."""
    warm_up, fall = cfg.param_scheduler
    total = cfg.train_cfg.max_epochs
    ends = [0, warm_up.end / total, fall.begin / total, fall.end / total]
    return ends, [warm_up.start_factor, 1.0, fall.start_factor, fall.end_factor]
