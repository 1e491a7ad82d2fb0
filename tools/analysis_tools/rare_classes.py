r"""Measure whether generated tiles help a classifier of few labelled ones.

Of EuroSAT's training tiles ``--shots`` of each class are labelled. Arms of a classifier (the preset
``objects``), all of ``--steps`` steps of 32 tiles: ``real``, the labelled tiles, cropped, flipped
and turned; ``stronger``, random resized crops and TrivialAugment in addition; ``generated``, half
of each batch generated tiles of the classes, with the changes of ``real``; and ``both``. The
generator of these is a transformer over the codes of VQ, which sees the tiles flipped and turned.

In the setting ``labelled``, the codec and the generator are trained on the labelled tiles alone,
and the classifier starts from random weights. In ``unlabelled``, they also see the other training
tiles, whose class the generator does not know: the codec is for all seeds the run ``vq_seed0`` of
``codec_table.py`` in ``--codecs``. So all arms of this setting start from the backbone of
``--pretrained``, which has learned from the same tiles without labels:

    python tools/analysis_tools/codec_table.py quantizers --rows VQ --minutes 40 \
        --cfg-options train_dataloader.dataset.data_root=data/eurosat_rgb_15k
    python tools/train.py configs/pretrain/hook-objects_vit-192x6_eurosat-12k-64.py
    python tools/analysis_tools/rare_classes.py labelled unlabelled --seeds 0 1 2 --device cuda \
        --pretrained work_dirs/hook-objects_vit-192x6_eurosat-12k-64/epoch_40.pth

Several processes with the same ``--out`` share the runs. A finished run is not run again, and one
that was interrupted starts anew. Each has a folder; ``table.md`` and ``table.csv`` hold the
accuracies on the test tiles and their differences from ``real`` with the same tiles and seed.
"""

import argparse
import csv
import json
import sys
import time
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import codec_table
import numpy as np
import torch
from ablation import crop_and_flip
from generator_training import (
    AR,
    Queue,
    Tiles,
    add_queue_options,
    draw,
    encode_views,
    generator_config,
    optimize,
)
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.utils import make_grid

from hook.checkpoint import check_some_weights, get_state_dict, load_checkpoint
from hook.engine.configs import (
    find_config,
    load_config,
    make_folder,
    setup_environment,
)
from hook.engine.devices import list_devices
from hook.engine.models import build_model
from hook.engine.profiling import device_name
from hook.errors import ConfigError, reports_errors
from hook.geo.staging import atomic_write, save_png
from hook.structures import ClsDataSample

SETTINGS = ("labelled", "unlabelled")
ARMS = ("real", "stronger", "generated", "both")
CLASSIFIER = "hook-objects_vit-192x6_eurosat-2k-64"
BATCH, WARM_UP = 32, 0.1  # of the classifier; share of its steps
TESTED = 250  # tiles at once
SHEET = 8  # generated tiles of a class in a picture


class Job(NamedTuple):
    """A run: the tiles that a generator draws, or an arm of the classifier."""

    setting: str
    shots: int
    seed: int
    part: str

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return f"{self.setting}-{self.shots}_seed{self.seed}/{self.part}"

    @property
    def tiles(self) -> str:
        """Folder of the generated tiles."""
        return self._replace(part="tiles").folder

    @property
    def needs_tiles(self) -> bool:
        """Whether the classifier sees generated tiles."""
        return self.part in ("generated", "both")


def choose(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Return the numbers of ``shots`` tiles of each class; fewer shots are a part of more.

    Raises:
        ConfigError: A class has fewer tiles.
    """
    drawn, chosen = np.random.default_rng(seed), []
    for number in range(int(labels.max()) + 1):
        rows = drawn.permutation(torch.nonzero(labels == number)[:, 0].cpu().numpy())
        if len(rows) < shots:
            raise ConfigError(
                f"--shots: class {number} has too few training tiles",
                expected=f"at most {len(rows)}",
                found=shots,
            )
        chosen.append(rows[:shots])
    return torch.from_numpy(np.concatenate(chosen)).to(labels.device)


# ------------------------------------------------------------------------------ generated tiles
def train_codec(job: Job, names: list[str], args: argparse.Namespace) -> Path:
    """Train a codec on these tiles; return its folder."""
    folder = args.out / job.folder
    split = (folder / "tiles.txt").absolute()
    split.write_text("\n".join(names) + "\n")
    data = dict(data_root=str(args.data), split_list=str(split))
    options = {f"train_dataloader.dataset.{key}": value for key, value in data.items()}
    options |= dict.fromkeys(("val_dataloader", "val_evaluator", "val_cfg"))
    own = argparse.Namespace(out=folder, iters=args.codec_steps, minutes=None, logs=None)
    own.amp = args.amp
    own.cfg_options, own.in_memory = options, args.device
    codec_table.train("VQ", codec_table.TABLES["quantizers"]["VQ"], job.seed, own)
    return folder / f"vq_seed{job.seed}"


def check_codec(folder: Path, names: list[str]) -> None:
    """Raise ConfigError if a codec has learned from other tiles than these."""
    data = load_config(folder / "config.py").train_dataloader.dataset
    data = data.dataset if data.type == "hook.ImagesInMemory" else data
    path = Path(data.data_root, data.split_list)
    seen = path.read_text().split() if path.is_file() else []
    if {*seen} != {*names}:
        raise ConfigError(
            f"{folder}: this autoencoder has learned from other tiles",
            expected=f"the {len(names)} training tiles of --data",
            found=f"{len(seen)} of {path}",
            remedy="train it on these, see --help",
        )


def draw_tiles(job: Job, folder: Path, train: Tiles, args: argparse.Namespace) -> None:
    """Train a generator, and write the tiles that it draws, ``tiles.npy`` and ``tiles.png``."""
    chosen = choose(train.labels, job.shots, job.seed)
    seen, pool = chosen, None
    if job.setting == "labelled":
        codec = train_codec(job, [train.names[number] for number in chosen.tolist()], args)
    else:
        codec = args.codecs / "vq_seed0"
        check_codec(codec, train.names)
        seen = torch.arange(len(train.labels), device=chosen.device)
    cfg = generator_config(AR, codec, args.cfg_options or {})
    torch.manual_seed(job.seed)
    generator = build_model(cfg)
    generator.init_weights()
    generator.to(args.device).eval()
    labels = train.labels[seen]
    if job.setting == "unlabelled":
        labels = torch.full_like(labels, generator.ignore_index)
        labels[chosen] = train.labels[chosen]
        # As many draws with a class as without one.
        pool = torch.cat([seen, chosen.repeat(max(1, len(seen) // len(chosen)))])
    stored = encode_views(generator, train.images[seen], cfg.model.turn)
    given, steps = generator.conditions(labels), args.generator_steps
    start = time.perf_counter()
    course = optimize(generator.network, stored, given, cfg, steps, pool=pool, amp=args.amp)
    _, generator.network, loss = deque(course, maxlen=1).pop()
    classes = torch.arange(cfg.model.num_classes, device=given.device)
    images = draw(generator, classes.repeat_interleave(args.generated), job.seed).cpu()
    shown = images.unflatten(0, (len(classes), -1))[:, :SHEET]
    sheet = make_grid(shown.flatten(0, 1), nrow=shown.shape[1])
    save_png(folder / "tiles.png", sheet.permute(1, 2, 0).numpy())
    facts = dict(loss=float(loss), seconds=time.perf_counter() - start, seen=len(seen))
    (folder / "log.json").write_text(json.dumps(facts | dict(codec=codec.name)))
    np.save(folder / "tiles.npy", images.numpy())


# ------------------------------------------------------------------------------ classifier
def augment(images: Tensor, draws: torch.Generator, strong: bool) -> Tensor:
    """Crop, flip and turn uint8 images (B, 3, H, W) at random; ``strong``: see the module."""
    if strong:
        changes = v2.Compose(
            [
                v2.RandomResizedCrop(images.shape[-2:], scale=(0.5, 1), antialias=True),
                v2.TrivialAugmentWide(),
            ]
        )
        images = torch.stack([changes(image) for image in images])
    images = crop_and_flip(images, draws)
    turned = (torch.rand(len(images), generator=draws) < 0.5).to(images.device)
    return torch.where(turned[:, None, None, None], images.mT, images)  # with flips, all turns


def train_classifier(
    job: Job, real: tuple[Tensor, Tensor], generated: tuple[Tensor, Tensor] | None, args: Any
) -> nn.Module:
    """Train an arm on images (N, 3, H, W) uint8 and labels (N,)."""
    torch.manual_seed(job.seed)
    model = build_model(load_config(find_config(CLASSIFIER))).to(args.device)
    if job.setting == "unlabelled":
        weights = get_state_dict(load_checkpoint(args.pretrained))
        check_some_weights(model, weights, args.pretrained)
        own = model.state_dict()
        fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
        model.load_state_dict(fitting, strict=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.05)
    ends, rates = (0, WARM_UP, 1), (0.001, 1, 0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: float(np.interp(step / args.steps, ends, rates))
    )
    draws = torch.Generator().manual_seed(job.seed)
    strong, parts = job.part in ("stronger", "both"), [real]
    if generated is not None:
        parts.append(generated)
    model.train()
    for _ in range(args.steps):
        images, labels = [], []
        for tiles, classes in parts:
            index = torch.randint(len(classes), (BATCH // len(parts),), generator=draws)
            images.append(tiles[index.to(tiles.device)])
            labels += classes[index.to(classes.device)].tolist()
        samples = [ClsDataSample(gt_label=label) for label in labels]
        inputs = augment(torch.cat(images), draws, strong)
        batch = model.data_preprocessor(dict(inputs=inputs, data_samples=samples), True)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=args.amp):
            losses = model.loss(batch["inputs"], batch["data_samples"])
        loss, _ = model.parse_losses(losses)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the classes (N,) of uint8 images."""
    found = []
    for part in images.split(TESTED):
        inputs = model.data_preprocessor(dict(inputs=part), False)["inputs"]
        found.append(model.infer(inputs)[0].argmax(dim=1))
    return torch.cat(found)


def run_arm(job: Job, folder: Path, train: Tiles, test: Tiles, args: argparse.Namespace) -> None:
    """Train and test an arm, and write ``result.json``."""
    start = time.perf_counter()
    chosen, generated = choose(train.labels, job.shots, job.seed), None
    if job.needs_tiles:
        images = torch.from_numpy(np.load(args.out / job.tiles / "tiles.npy")).to(args.device)
        count = int(train.labels.max()) + 1
        labels = torch.arange(count).repeat_interleave(len(images) // count)
        generated = images, labels
    real = train.images[chosen], train.labels[chosen]
    model = train_classifier(job, real, generated, args)
    found = predict(model, test.images)
    right = (found == test.labels).float()
    by_class = [float(right[test.labels == k].mean()) for k in range(int(test.labels.max()) + 1)]
    result = dict(job._asdict(), accuracy=100 * float(right.mean()), by_class=by_class)
    result |= dict(predicted=found.tolist(), steps=args.steps, device=device_name(args.device))
    with atomic_write(folder / "result.json") as partial:
        partial.write_text(json.dumps(result | dict(seconds=time.perf_counter() - start)))
    print(f"{job.folder}: {result['accuracy']:.2f} %", flush=True)


# ------------------------------------------------------------------------------ all runs
def list_jobs(args: argparse.Namespace) -> list[Job]:
    """List the runs, the first seed of all first."""
    return [
        Job(setting, shots, seed, part)
        for seed in args.seeds
        for setting in args.settings
        for shots in args.shots
        for part in ("tiles", *ARMS)
    ]


def check(job: Job, args: argparse.Namespace) -> None:
    """Raise ConfigError if a run lacks what it begins with."""
    if job.needs_tiles and not (args.out / job.tiles / "finished").is_file():
        raise ConfigError("its tiles are not drawn yet", remedy="run it again when they are")
    if job.setting == "unlabelled" and job.part == "tiles":
        generator_config(AR, args.codecs / "vq_seed0", {})


def write_tables(folder: Path) -> str:
    """Write ``table.csv`` (a line per run) and ``table.md`` (means over seeds) of all results."""
    files = sorted(folder.glob("*/*/result.json"))
    runs = [json.loads(file.read_text()) for file in files]
    if not runs:
        return ""
    heads = ("setting", "shots", "seed", "part", "accuracy", "steps", "seconds", "device")
    with atomic_write(folder / "table.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, heads, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(runs)
    of = {Job(*(run[key] for key in Job._fields)): run["accuracy"] for run in runs}
    text = "| setting | tiles a class | arm | seeds | accuracy | from real, per seed |\n"
    text += "| --- | --- | --- | --- | --- | --- |\n"
    for setting, shots in sorted({job[:2] for job in of}):
        for arm in ARMS:
            own = {job.seed: of[job] for job in sorted(of) if job[:2] == (setting, shots)
                   and job.part == arm}  # fmt: skip
            if not own:
                continue
            pairs = [(own[seed], of.get(Job(setting, shots, seed, "real"))) for seed in own]
            steps = [f"{one - real:+.2f}" for one, real in pairs if real is not None]
            mean, spread = np.mean([*own.values()]), np.ptp([*own.values()]) / 2
            cells = setting, shots, arm, len(own), f"{mean:.2f} ± {spread:.2f}"
            text += f"| {' | '.join(map(str, cells))} | {', '.join(steps) or '-'} |\n"
    text += "\n± is half the range over the seeds.\n"
    with atomic_write(folder / "table.md") as partial:
        partial.write_text(text)
    return text


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="+", choices=SETTINGS)
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 20, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--codecs", type=Path, default=Path("work_dirs/codecs"), help="runs of codec_table.py"
    )
    parser.add_argument("--pretrained", type=Path, help="checkpoint of a pretraining")
    for name, steps in (("codec-steps", 2000), ("generator-steps", 2000), ("steps", 1000)):
        parser.add_argument(f"--{name}", type=int, default=steps, help=f"(default {steps})")
    parser.add_argument("--generated", type=int, default=200, help="tiles of a class (default 200)")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the classifier")
    add_queue_options(parser, "rare_classes")
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if "unlabelled" in args.settings and not (args.pretrained and args.pretrained.is_file()):
        raise ConfigError(
            "the setting unlabelled needs --pretrained",
            expected="a checkpoint of configs/pretrain, trained on the same tiles",
            found=args.pretrained,
            remedy="see --help",
        )
    setup_environment()
    args.device = list_devices(args.device)[0]
    make_folder(args.out, "--out")

    @cache
    def data() -> tuple[Tiles, Tiles]:
        return tuple(Tiles(args.data, split, None, args.device) for split in ("train", "test"))

    def run(job: Job, folder: Path) -> None:
        train, test = data()
        if job.part == "tiles":
            draw_tiles(job, folder, train, args)
        else:
            run_arm(job, folder, train, test, args)

    steps = "codec_steps", "generator_steps", "steps", "rate"
    own = (*steps, "generated", "pretrained")
    queue = Queue(args, own, run, lambda job: check(job, args))
    queue.work(list_jobs(args))
    print(write_tables(args.out), flush=True)
    return int(queue.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
