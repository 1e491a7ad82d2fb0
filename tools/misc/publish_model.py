"""Prepare a checkpoint for publication.

    python tools/misc/publish_model.py CHECKPOINT OUT
    python tools/misc/publish_model.py CHECKPOINT NAME --format safetensors --half --zoo \
      --config CONFIG --data "..." --licence "..." --attribution "..." --measured-on "..."

As ``pth``: weights and meta only, with the digest in the file's name. As ``safetensors``: a file
that is a model by itself (:mod:`hook.zoo.published`). It is tested on the config's test part before
and after, and not written where half precision moves a score by more than ``--tolerance``; the
scores are kept in it. With ``--zoo`` it becomes a model that has a name: the file goes into the
package, and its entry into ``models.json``.
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
from hook.geo.staging import atomic_write

_KEPT_META = ("dataset_meta", "cfg", "epoch", "iter", "seed", "mmengine_version")


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
    alone = parser.add_argument_group("--format safetensors")
    alone.add_argument("--config", help="config the checkpoint was trained with")
    alone.add_argument("--half", action="store_true", help="store weights in half precision")
    alone.add_argument(
        "--tolerance", type=float, default=0.1, help="largest change of a score (default 0.1)"
    )
    alone.add_argument(
        "--no-test", action="store_true", help="publish without scores, where the data are absent"
    )
    alone.add_argument("--measured-on", default="", help="what the test part is, in words")
    alone.add_argument("--data", default="", help="what it was trained on")
    alone.add_argument("--licence", default="", help="of the weights")
    alone.add_argument("--attribution", default="", help="what users have to name")
    alone.add_argument(
        "--zoo", action="store_true", help="put it into the package, as a model that has a name"
    )
    alone.add_argument("--url", help="with --zoo: list it by this address, and write it to OUT")
    add_config_options(parser)
    return parser.parse_args(argv)


def publish(checkpoint: str, out: str) -> Path:
    """Write the published form of a checkpoint.

    Args:
        checkpoint: Checkpoint of a training run.
        out: Name, with or without ``.pth``.

    Returns:
        The file written; the end of its name starts the sha256 of its bytes.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ConfigError: The folder of ``out`` does not exist.
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
        raise ConfigError(f"folder {target.parent} does not exist", remedy="make it first")
    with atomic_write(target) as partial:
        partial.write_bytes(buffer.getvalue())
    return target


def publish_model(args: argparse.Namespace) -> Path:
    """Write a checkpoint as a model by itself.

    Args:
        args: Options of the command.

    Returns:
        The file written.

    Raises:
        ConfigError: The config cannot be published, a score moves too far, or a file cannot be
            written.
        CheckpointError: The checkpoint cannot be read or belongs to another model.
        DataError: The test part is missing.
    """
    from hook.engine.configs import load_config
    from hook.engine.models import is_segmentation
    from hook.inference.models import load_model
    from hook.zoo import PublishedModel, write_published
    from hook.zoo.listing import FOLDER, Entry, add_entry, checksum
    from hook.zoo.published import META_KEYS, SUFFIX

    if args.config is None:
        raise ConfigError(
            "--format safetensors: no config",
            expected="--config CONFIG, the one the checkpoint was trained with",
            found="none",
            remedy="add it: a checkpoint does not say of which model its weights are",
        )
    cfg = load_config(args.config, args.cfg_options)
    model = load_model((cfg, args.checkpoint))
    name = Path(args.out).name.removesuffix(SUFFIX)
    target = FOLDER / f"{name}{SUFFIX}" if args.zoo and not args.url else None
    target = target or Path(args.out).with_name(f"{name}{SUFFIX}")
    meta = _plain(model.dataset_meta)
    loader = cfg.get("test_dataloader") or {}
    steps = (loader.get("dataset") or {}).get("pipeline") or ()
    described: dict[str, Any] = dict(
        name=name,
        task="segmentation" if is_segmentation(model) else "classification",
        model=_built(cfg),
        dataset_meta={key: meta[key] for key in META_KEYS if meta.get(key) is not None},
        test_pipeline=_plain([step for step in steps if not _loads(step)]),
        default_scope=cfg.get("default_scope", "hook"),
        config=Path(args.config).stem,
        measured_on=args.measured_on,
        licence=args.licence,
        data=args.data,
        attribution=args.attribution,
    )
    weights = get_state_dict(load_checkpoint(args.checkpoint))
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, target.name)
        write_published(trial, PublishedModel(**described), weights, args.half)
        metrics = {}
        if not args.no_test:
            before = _test(cfg, args.checkpoint, folder)
            metrics = _test(cfg, trial, folder)
            _compare(before, metrics, args.tolerance)
        described["metrics"] = metrics
        write_published(target, PublishedModel(**described), weights, args.half)
    load_model(target)  # as its users will
    if args.zoo:
        add_entry(
            Entry(
                name=name,
                task=described["task"],
                sha256=checksum(target),
                size=target.stat().st_size,
                file=None if args.url else target.name,
                url=args.url,
                classes=described["dataset_meta"]["classes"],
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


def _loads(step: dict) -> bool:
    return str(step.get("type")).rpartition(".")[2] in (
        "LoadImageFromFile",
        "LoadAnnotations",
        "LoadBands",
    )


def _built(cfg: Any) -> dict[str, Any]:
    """The section ``model`` without what only a training needs."""
    model = _plain(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        model.setdefault("data_preprocessor", _plain(cfg.data_preprocessor))

    def without(part: Any) -> Any:
        if isinstance(part, dict):
            gone = ("init_cfg", "pretrained")
            return {key: without(value) for key, value in part.items() if key not in gone}
        return [without(one) for one in part] if isinstance(part, list) else part

    return without(model)


def _plain(value: Any) -> Any:
    """What JSON makes of a section of a config."""
    value = value.to_dict() if hasattr(value, "to_dict") else value
    return json.loads(json.dumps(value))


def _test(cfg: Any, weights: str | Path, folder: str) -> dict[str, float]:
    """Test a checkpoint on the config's test part."""
    import copy

    from hook.engine.progress import QuietRunner
    from hook.engine.runner import build_runner

    cfg = copy.deepcopy(cfg)
    cfg.work_dir, cfg.load_from, cfg.resume = folder, str(weights), False
    cfg.experiment_name = f"publish_{Path(weights).stem}_{Path(weights).suffix[1:]}"
    found = build_runner(cfg, QuietRunner).test()
    return {key: round(float(value), 4) for key, value in found.items()}


def _compare(before: dict[str, float], after: dict[str, float], tolerance: float) -> None:
    moved = {key: after[key] - value for key, value in before.items() if key in after}
    for key, value in moved.items():
        print(f"{key}: {before[key]:.4f} before, {after[key]:.4f} published")
        if not abs(value) <= tolerance:
            raise ConfigError(
                f"--half moves {key} too far",
                expected=f"at most {tolerance:g} (--tolerance)",
                found=f"{before[key]:.4f} before, {after[key]:.4f} after",
                remedy="publish without --half, or allow more with --tolerance",
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
