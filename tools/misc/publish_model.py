"""Prepare a checkpoint for publication.

    python tools/misc/publish_model.py CHECKPOINT OUT
    python tools/misc/publish_model.py CHECKPOINT NAME --format safetensors --half --zoo \
      --config CONFIG --data "..." --licence "..." --attribution "..." --measured-on "..."

``pth`` stores weights and meta, with the digest in the file name. ``safetensors`` stores a
self-contained model (:mod:`hook.zoo.published`) with its scores: it is tested on the config's test
data before and after, and not written if half precision changes a score by more than
``--tolerance``. ``--zoo`` adds the file to the package and its entry to ``models.json``.
"""

import argparse
import hashlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from hook.checkpoint import get_state_dict, load_checkpoint
from hook.errors import ConfigError, reports_errors
from hook.geo.staging import atomic_write, check_output

_KEPT_META = ("dataset_meta", "cfg", "epoch", "iter", "seed", "mmengine_version")

_ONLY_TRAINS = {
    "hook.TileAutoencoder": (
        *("losses", "discriminator", "discriminator_first", "frozen"),
        *("equivariance", "entropy_boost"),
    ),
    "hook.TileGenerator": ("codec_weights", "frozen"),
    "hook.LightningDiT": ("alignment",),
    "hook.TokenPretrainer": ("losses", "frozen", "feature_channels", "region_loss"),
    "hook.TokenSegmentor": ("region_loss",),
    "hook.TokenClassifier": ("region_loss",),
    "hook.ClsDataPreProcessor": ("scales",),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from hook.engine.configs import add_config_options

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="checkpoint of a training run")
    parser.add_argument(
        "out", help="name; the file will be <name>-<8 digits of sha256>.pth, or <name>.safetensors"
    )
    parser.add_argument("--format", choices=("pth", "safetensors"), default="pth")
    group = parser.add_argument_group("--format safetensors")
    group.add_argument("--config", help="config the checkpoint was trained with")
    group.add_argument("--half", action="store_true", help="store weights in half precision")
    group.add_argument(
        "--tolerance", type=float, default=0.1, help="maximum change of a score (default 0.1)"
    )
    group.add_argument("--no-test", action="store_true", help="publish without scores")
    group.add_argument(
        "--metric",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="score measured otherwise, such as of a model without a test; may be repeated",
    )
    group.add_argument("--measured-on", default="", help="description of the test data")
    group.add_argument("--data", default="", help="description of the training data")
    group.add_argument("--licence", default="", help="licence of the weights")
    group.add_argument("--attribution", default="", help="attribution required of users")
    group.add_argument("--zoo", action="store_true", help="add it to the models of the package")
    group.add_argument("--url", help="with --zoo: list it with this URL, and write it to OUT")
    add_config_options(parser)
    args = parser.parse_args(argv)
    for name, value in args.metric:
        try:
            float(value)
        except ValueError:
            parser.error(f"--metric {name}: {value!r} is not a number")
    return args


def publish(checkpoint: str, out: str) -> Path:
    """Write weights and meta of a checkpoint to ``<out>-<8 digits of sha256>.pth``.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ConfigError: If the folder of ``out`` does not exist.
    """
    content = load_checkpoint(checkpoint)
    meta = content.get("meta") or {}
    kept = {
        "meta": {key: meta[key] for key in _KEPT_META if key in meta},
        "state_dict": {k: v.cpu().clone() for k, v in get_state_dict(content).items()},
    }
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    name = Path(out).with_suffix("") if out.endswith(".pth") else Path(out)
    target = name.with_name(f"{name.name}-{digest[:8]}.pth")
    if not target.parent.is_dir():
        raise ConfigError(f"folder {target.parent} does not exist", remedy="create it first")
    with atomic_write(target) as partial:
        partial.write_bytes(buffer.getvalue())
    return target


def publish_model(args: argparse.Namespace) -> Path:
    """Write a checkpoint as a self-contained model and return its path.

    Raises:
        ConfigError: If the config cannot be published, a score changes too much, or a file cannot
            be written.
        CheckpointError: If the checkpoint cannot be read or does not fit the model.
        DataError: If the test data are missing.
    """
    from hook.engine.configs import load_config
    from hook.inference.models import load_model
    from hook.registry import MODELS
    from hook.zoo import PublishedModel, write_published
    from hook.zoo.listing import FOLDER, Entry, add_entry, checksum
    from hook.zoo.published import META_KEYS, SUFFIX

    if args.config is None:
        raise ConfigError(
            "--format safetensors: no config",
            expected="--config CONFIG, the one the checkpoint was trained with",
            found="none",
            remedy="add it",
        )
    cfg = load_config(args.config, args.cfg_options)
    model = load_model((cfg, args.checkpoint))
    name = Path(args.out).name.removesuffix(SUFFIX)
    target = FOLDER / f"{name}{SUFFIX}" if args.zoo and not args.url else None
    target = target or Path(args.out).with_name(f"{name}{SUFFIX}")
    check_output(target, (args.config, args.checkpoint), ConfigError)
    meta, task = _plain(model.dataset_meta), _task(model)
    if task in ("reconstruction", "embedding"):  # labels of its training data mean nothing to it
        meta = {k: v for k, v in meta.items() if k not in ("classes", "palette", "ignore_index")}
    loader = cfg.get("test_dataloader") or {}
    steps = (loader.get("dataset") or {}).get("pipeline") or ()
    described: dict[str, Any] = dict(
        name=name,
        task=task,
        model=_model_section(cfg),
        dataset_meta={key: meta[key] for key in META_KEYS if meta.get(key) is not None},
        test_pipeline=_plain([step for step in steps if not _loads(step)]),
        default_scope=cfg.get("default_scope", "hook"),
        config=Path(args.config).stem,
        measured_on=args.measured_on,
        licence=args.licence,
        data=args.data,
        attribution=args.attribution,
    )
    needed = MODELS.build(described["model"]).state_dict().keys()
    weights = get_state_dict(load_checkpoint(args.checkpoint))
    weights = {key: value for key, value in weights.items() if key in needed}
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, target.name)
        write_published(trial, PublishedModel(**described), weights, args.half)
        metrics = {name: float(value) for name, value in args.metric}
        if not args.no_test:
            before = _test(cfg, args.checkpoint, folder)
            after = _test(cfg, trial, folder)
            _compare(before, after, args.tolerance)
            metrics |= after
        described["metrics"] = metrics
        write_published(target, PublishedModel(**described), weights, args.half)
    load_model(target)  # check that it loads
    if args.zoo:
        add_entry(
            Entry(
                name=name,
                task=described["task"],
                sha256=checksum(target),
                size=target.stat().st_size,
                file=None if args.url else target.name,
                url=args.url,
                classes=described["dataset_meta"].get("classes", []),
                bands=described["dataset_meta"].get("bands", []),
                resolution=described["dataset_meta"].get("resolution"),
                metrics=metrics,
                **{
                    key: described[key]
                    for key in ("config", "measured_on", "licence", "data", "attribution")
                },
            )
        )
    return target


def _task(model: Any) -> str:
    from hook.engine.models import is_segmentation
    from hook.models import TileAutoencoder, TileGenerator, TokenPretrainer

    kinds = {TileAutoencoder: "reconstruction", TokenPretrainer: "embedding"}
    for kind, task in (kinds | {TileGenerator: "generation"}).items():
        if isinstance(model, kind):
            return task
    return "segmentation" if is_segmentation(model) else "classification"


def _loads(step: dict) -> bool:
    return str(step.get("type")).rpartition(".")[2] in (
        "LoadImageFromFile",
        "LoadAnnotations",
        "LoadBands",
    )


def _model_section(cfg: Any) -> dict[str, Any]:
    """Return the section ``model`` without keys for training only.

    Losses, discriminator and frozen network of an autoencoder or a pretraining are such keys.
    """
    model = _plain(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        model.setdefault("data_preprocessor", _plain(cfg.data_preprocessor))

    def without(part: Any) -> Any:
        if isinstance(part, dict):
            dropped = ("init_cfg", "pretrained", *_ONLY_TRAINS.get(part.get("type"), ()))
            return {key: without(value) for key, value in part.items() if key not in dropped}
        return [without(one) for one in part] if isinstance(part, list) else part

    return without(model)


def _plain(value: Any) -> Any:
    """Convert a section of a config to JSON types."""
    value = value.to_dict() if hasattr(value, "to_dict") else value
    return json.loads(json.dumps(value))


def _test(cfg: Any, weights: str | Path, folder: str) -> dict[str, float]:
    """Test a checkpoint on the config's test data."""
    import copy

    from hook.engine.progress import QuietRunner
    from hook.engine.runner import build_runner

    cfg = copy.deepcopy(cfg)
    cfg.work_dir, cfg.load_from, cfg.resume = folder, str(weights), False
    cfg.experiment_name = f"publish_{Path(weights).stem}_{Path(weights).suffix[1:]}"
    found = build_runner(cfg, QuietRunner).test()
    return {key: round(float(value), 4) for key, value in found.items()}


def _compare(before: dict[str, float], after: dict[str, float], tolerance: float) -> None:
    changes = {key: after[key] - value for key, value in before.items() if key in after}
    for key, value in changes.items():
        print(f"{key}: {before[key]:.4f} before, {after[key]:.4f} published")
        if not abs(value) <= tolerance:
            raise ConfigError(
                f"--half changes {key} too much",
                expected=f"at most {tolerance:g} (--tolerance)",
                found=f"{before[key]:.4f} before, {after[key]:.4f} after",
                remedy="publish without --half, or raise --tolerance",
            )


@reports_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.format == "safetensors":
        print(publish_model(args))
    else:
        print(publish(args.checkpoint, args.out))


if __name__ == "__main__":
    main()
