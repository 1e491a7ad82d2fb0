r"""Train the codecs of a table one after the other, and compare them.

Each row is a config with options, trained for ``--minutes`` of CPU time (so that a busy machine
changes little; the learning rate falls to zero over its last quarter) or ``--iters``, once for each
of ``--seeds``. A run that is finished is not run again, so an interrupted table goes on. Then all
runs stand in one table of ``tokenizer_benchmark.py``, which gets ``--benchmark``:

    python tools/analysis_tools/codec_table.py quantizers --minutes 40 --out work_dirs/codecs \
        --cfg-options train_dataloader.dataset.data_root=data/eurosat_rgb_15k \
            train_dataloader.dataset.split_list=splits/train_without_val.txt \
        --benchmark="--classical jpeg,webp,jpeg2000"

Each run has a folder in ``--out`` with its config, log and checkpoint, and the comparison one named
after the table. ``--logs`` gets a short log of each run as soon as it is finished.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config

from hook.engine.configs import add_config_options, load_config, make_folder, setup_environment
from hook.engine.profiling import command_line
from hook.errors import ConfigError, reports_errors
from hook.geo.staging import atomic_write

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
VQ, IBQ, LFQ, FSQ, RQ, KL, VA_VAE, VFM_VAE = (
    f"{name}_s8_eurosat-2k-64"
    for name in (
        *("vq/vq-1k", "ibq/ibq-1k", "open_magvit2/lfq-1k", "fsq/fsq-1k", "rq/rq-1k-d2"),
        *("kl/kl-32", "va_vae/va-vae-32", "vfm_vae/vfm-vae-32"),
    )
)
MANY_BANDS = "vq/vq-1k_s8_eurosat-ms-64"
GRADIENT = {"model.quantizer.ema": False, "model.quantizer.restart": False}
WITHOUT = {"model.quantizer": None, "model.encoder.out_channels": 32}
RESIDUAL = dict(type="hook.ResidualQuantizer", codebook_size=1024, depth=4, embed_dims=32)
EIGHT = {
    "model.encoder.out_channels": 16,
    "model.quantizer.embed_dims": 8,
    "model.decoder.in_channels": 8,
}
DECAY = 0.25  # share of the time in which the learning rate falls
LOG_STEPS = 250  # steps between the lines of short logs
# As the configs with a frozen network have it, whose features are computed once.
FIXED = {"train_dataloader.dataset.pipeline": [dict(type="hook.PackClsSample")]}
Row = tuple[str, dict[str, Any]]
TABLES: dict[str, dict[str, Row]] = {
    "quantizers": {
        "none": (KL, WITHOUT),
        "KL": (KL, {}),
        "VQ": (VQ, {}),
        "IBQ": (IBQ, {}),
        "LFQ": (LFQ, {}),
        "FSQ": (FSQ, {}),
        "RQ depth 2": (RQ, {}),
    },
    "codebooks": {
        f"{name} {size}": (config, {"model.quantizer.codebook_size": size, **options})
        for size in (512, 4096, 16384)
        for name, config, options in (
            ("VQ gradient", VQ, GRADIENT),
            ("VQ EMA", VQ, {}),
            ("IBQ", IBQ, {}),
        )
    },
    "depths": {f"RQ depth {depth}": (RQ, {"model.quantizer.depth": depth}) for depth in (1, 2, 4)},
    "bands": {
        "VQ, 13 bands": (MANY_BANDS, {}),
        "RQ depth 4, 13 bands": (MANY_BANDS, {"model.quantizer": RESIDUAL}),
    },
    "alignment": {
        "KL 32": (KL, FIXED),
        "VA-VAE 32": (VA_VAE, {}),
        "KL 8": (KL, EIGHT | FIXED),
        "VA-VAE 8": (VA_VAE, EIGHT | {"model.losses.1.in_channels": 8}),
        "VFM-VAE 32": (VFM_VAE, {}),
    },
    "networks": {
        "slots": ("slots/slots-gru-16_s4_eurosat-2k-64", {}),
        "space-time": ("space_time/space-time-fsq_s8_eurosat-2k-64", {}),
    },
}
# A codec of each paper, and of these networks.
_OF_PAPERS = {
    "quantizers": ("VQ", "IBQ", "LFQ", "FSQ", "RQ depth 2"),
    "alignment": ("KL 32", "VA-VAE 32", "VFM-VAE 32"),
    "networks": ("slots", "space-time"),
}
TABLES["papers"] = {row: TABLES[key][row] for key, rows in _OF_PAPERS.items() for row in rows}


def train(name: str, row: Row, seed: int, args: argparse.Namespace) -> tuple[Path, Path]:
    """Train a row unless it is finished, and return its config and checkpoint.

    Raises:
        ConfigError: It is finished with other options.
    """
    folder = args.out / f"{''.join(c if c.isalnum() else '-' for c in name.lower())}_seed{seed}"
    config, pointer = folder / "config.py", folder / "last_checkpoint"
    finished = folder / "finished"
    path, options = row
    path = ROOT / "configs" / "autoencoders" / f"{path}.py"
    cfg = load_config(path, options | (args.cfg_options or {}))
    steps = args.iters or 10**9
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=steps, val_interval=steps)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=steps, save_best=None)
    cfg.default_hooks.logger.log_metric_by_epoch = False
    cfg.log_processor.by_epoch = False
    cfg.randomness = dict(seed=seed)
    cfg.amp = args.amp  # which the tool gets as an option
    if args.in_memory:
        hold_images(cfg, args.in_memory)
    if args.minutes:
        limit = dict(type="hook.TimeLimitHook", minutes=args.minutes, decay=DECAY)
        cfg.custom_hooks.append(limit)
    if finished.is_file() and config.read_text() != cfg.pretty_text:
        raise ConfigError(
            f"{folder} is a finished run with other options",
            expected="the options of its config.py",
            found=f"those of this call, for {name}",
            remedy="give these options, or another --out",
        )
    if not finished.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        cfg.dump(config)
        run("train.py", config, "--work-dir", folder, *["--amp"] * args.amp)
        finished.touch()
        if args.logs:
            write_log(folder, args.logs)
    return config, folder / Path(pointer.read_text().strip()).name  # wherever the folder is now


def write_log(run_folder: Path, logs: Path) -> None:
    """Write losses every 250 steps and the validation of a run, a JSON object per line."""
    lines = []
    for file in sorted(run_folder.glob("*/vis_data/scalars.json")):
        for line in map(json.loads, file.read_text().splitlines()):
            if "loss" not in line or line["step"] % LOG_STEPS == 0:
                lines.append(
                    {
                        key: round(value, 5) if isinstance(value, float) else value
                        for key, value in line.items()
                        if key not in ("time", "data_time", "memory", "iter", "lr")
                    }
                )
    path = logs / f"{run_folder.name}.json"
    with atomic_write(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))


def hold_images(cfg: Config, device: str) -> None:
    """Keep the training images in memory, shifted and mirrored anew in each batch."""
    data, loader = cfg.train_dataloader.dataset, cfg.train_dataloader
    cfg.custom_hooks = [one for one in cfg.custom_hooks if one.type != "hook.FrozenFeatureHook"]
    data.pipeline = cfg.test_dataloader.dataset.pipeline
    loader.dataset = dict(type="hook.ImagesInMemory", dataset=data, device=device)
    # MMEngine waits two seconds before each further pass of another sampler.
    loader.sampler = dict(type="InfiniteSampler", shuffle=True)
    loader.update(num_workers=0, persistent_workers=False)


def run(tool: str, *arguments: object) -> None:
    """Run a tool; raise CalledProcessError if it fails."""
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    print(command_line(command[1:]), flush=True)
    subprocess.run(command, check=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=sorted(TABLES))
    parser.add_argument("--rows", nargs="+", help="rows (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="CPU time of a run")
    length.add_argument("--iters", type=int, help="steps of a run")
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 (float16 on a GPU)")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/codecs"), help="runs")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="short logs of the runs")
    parser.add_argument(
        "--in-memory",
        metavar="DEVICE",
        help="keep the training images there, for a GPU that waits for files: cuda, cpu",
    )
    parser.add_argument("--benchmark", default="", help="arguments of tokenizer_benchmark.py")
    add_config_options(parser)
    return parser.parse_args()


@reports_errors
def main() -> None:
    args = parse_args()
    setup_environment()
    rows = TABLES[args.table]
    chosen = args.rows or list(rows)
    if unknown := [name for name in chosen if name not in rows]:
        raise ConfigError(
            f"--rows: {unknown[0]!r} is not a row of {args.table}",
            expected=", ".join(rows),
            found=unknown[0],
        )
    make_folder(args.out, "--out")
    if args.logs:
        make_folder(args.logs, "--logs")
    models, names = [], []
    for seed in args.seeds:
        for name in chosen:
            try:
                models += train(name, rows[name], seed, args)
            except subprocess.CalledProcessError as error:  # the others are worth their time
                print(f"{name}, seed {seed}: {error}", file=sys.stderr, flush=True)
                continue
            names.append(name if len(args.seeds) == 1 else f"{name}, seed {seed}")
    if names:
        options = *models, "--names", *names, "--out", args.out / args.table
        try:
            run("analysis_tools/tokenizer_benchmark.py", *options, *shlex.split(args.benchmark))
        except subprocess.CalledProcessError as error:  # it said why; the runs are kept
            sys.exit(error.returncode)


if __name__ == "__main__":
    sys.exit(main())
