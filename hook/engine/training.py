"""A training from a config to its weights: work dir, run, curves."""

import contextlib
import io
import json
import os
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config

from hook.checkpoint import find_resumable, load_checkpoint
from hook.engine.configs import load_config, make_folder
from hook.engine.progress import QuietRunner, TrainingProgressHook, use_device
from hook.engine.runner import build_runner, set_resume
from hook.errors import ConfigError
from hook.geo.staging import atomic_write


@dataclass(frozen=True)
class TrainingResult:
    """What a training left.

    Attributes:
        config: The config; ``tools/train.py`` and every ``hook`` command take it.
        checkpoint: Weights and dataset meta after the last epoch.
        metrics: On the part held out, in percent: ``mIoU``, ``aAcc`` (overall accuracy), ``mAcc``
            and ``IoU.<class>``; those that the base config asks for besides.
        work_dir: The folder of all this.
        log: MMEngine's log of the run.
        curves: A row per epoch: ``loss`` (mean), ``lr``, and the metrics where it was validated.
    """

    config: Path
    checkpoint: Path
    metrics: dict[str, float]
    work_dir: Path
    log: Path | None
    curves: pd.DataFrame = field(repr=False)


def prepare_work_dir(out: Path, overwrite: bool = False, resume: bool = False) -> Path:
    """Make the folder of a training; refuse or remove what an earlier one left there.

    Args:
        out: The folder.
        overwrite: Remove what an earlier training left.
        resume: Leave it.

    Raises:
        ConfigError: The folder holds a training, or cannot be made.
    """
    if overwrite and resume:
        raise ConfigError(
            "overwrite and resume exclude each other",
            expected="one of them",
            found="both",
            remedy="resume goes on with what is there, overwrite begins afresh",
        )
    make_folder(out, "work_dir")
    if (out / "config.py").exists() and not (overwrite or resume):
        raise ConfigError(
            f"work_dir {out} holds a training already",
            expected="a folder without one",
            found=f"{out / 'config.py'}",
            remedy="choose another folder, or give overwrite=True or resume=True",
        )
    if overwrite:
        for scalars in out.glob("*/vis_data/scalars.json"):
            shutil.rmtree(scalars.parents[1])  # a run's folder: log and curves
        names = ("config.py", "labels.gpkg", "split.gpkg", "last_checkpoint")
        for path in (*out.glob("*.pth"), *(out / name for name in names)):
            path.unlink(missing_ok=True)
    return out


def train_config(
    cfg: Config,
    *,
    resume: bool = False,
    best: bool = False,
    progress: bool = True,
    device: str | None = None,
) -> TrainingResult:
    """Train what a config describes; config and weights are written into its ``work_dir``.

    Args:
        cfg: The config.
        resume: Go on with an interrupted training of the same config.
        best: Keep the weights that the config's ``save_best`` chose, not the last ones.
        progress: Show a progress bar.
        device: Where it runs; None takes a GPU where there is one.

    Returns:
        Files, metrics and curves.

    Raises:
        ConfigError: A part of the config cannot be built, does not fit the data, or differs from
            that of the interrupted training.
        DataError: The data do not fit the config.
    """
    out = Path(cfg.work_dir)
    config, checkpoint = out / "config.py", out / "checkpoint.pth"
    _write_config(cfg, config, resume)
    # What is trained is what a reader goes on with. Each checkpoint holds the config as text, and
    # MMEngine would take a second each time to lay it out prettily.
    cfg = Config(load_config(config).to_dict(), filename=str(config), format_python_code=False)
    if resume:
        set_resume(cfg, "auto")
    try:
        _run(cfg, progress, device)
    except BaseException:
        if not resume and find_resumable(out) is None:
            config.unlink()  # nothing to go on with: the next attempt is a first one again
        raise
    chosen = sorted(out.glob("best_*.pth"), key=os.path.getmtime) if best else [find_resumable(out)]
    _keep_weights(chosen[-1] if chosen else None, checkpoint)
    curves = read_curves(out)
    logs = sorted(out.glob("*/*.log"))
    return TrainingResult(
        config, checkpoint, _last_metrics(curves), out, logs[-1] if logs else None, curves
    )


def _run(cfg: Config, progress: bool, device: str | None) -> None:
    """Run a config's training behind one progress bar; the log goes to its file."""
    with use_device(device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"mmcv|mmseg|mmengine|timm")
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.optim")
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning)
        with contextlib.redirect_stdout(io.StringIO()):  # what is said before there is a log
            runner = build_runner(cfg, QuietRunner)
        runner.register_hook(TrainingProgressHook(progress))
        runner.train()


def _write_config(cfg: Config, path: Path, resume: bool) -> None:
    """Write the config, or check that an interrupted training had the same."""
    if resume and path.is_file():
        before, now = (_settings(c) for c in (Config.fromfile(path), cfg))
        other = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if other:
            raise ConfigError(
                f"{path}: the interrupted training had other settings",
                expected="the same arguments as before",
                found=f"differences in {', '.join(other)}",
                remedy="give the same arguments, or begin afresh with overwrite=True",
            )
        return
    part = path.with_name(f".{path.name}")
    cfg.dump(str(part))
    os.replace(part, path)


def _settings(cfg: Config) -> dict[str, Any]:
    # As text, so that lists and tuples are one.
    plain = json.loads(json.dumps(cfg.to_dict(), default=str, sort_keys=True))
    return {k: v for k, v in plain.items() if k not in ("resume", "load_from", "work_dir")}


def _keep_weights(source: Path | None, target: Path) -> None:
    """Write a checkpoint without what only a training needs."""
    if source is None:
        raise ConfigError(
            "the training left no checkpoint",
            expected="default_hooks.checkpoint, with save_best where the best is to be kept",
            found="none",
            remedy="start from a base config with default_hooks.checkpoint=dict(interval=1)",
        )
    content = load_checkpoint(source)
    with atomic_write(target) as part:
        torch.save({key: content[key] for key in ("meta", "state_dict") if key in content}, part)


def read_curves(work_dir: str | os.PathLike) -> pd.DataFrame:
    """Read the curves of a training by epochs, those of its interrupted runs included.

    Args:
        work_dir: Folder of the training.

    Returns:
        Indexed by ``epoch`` from 1: ``loss`` and ``lr`` (means of the logged steps), and the
        metrics of epochs that were validated.
    """
    steps: dict[int, dict[str, list[float]]] = {}
    scores: dict[int, dict[str, float]] = {}
    for file in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        fresh: dict[int, dict[str, list[float]]] = {}
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if "loss" in entry and "epoch" in entry:
                row = fresh.setdefault(int(entry["epoch"]), {})
                for key in ("loss", "lr"):
                    row.setdefault(key, []).append(entry[key])
            elif "step" in entry:
                timing = ("step", "data_time", "time")
                scores[int(entry["step"])] = {k: v for k, v in entry.items() if k not in timing}
        steps |= fresh  # an epoch that was cut off was run again
    rows = {
        epoch: {key: float(np.mean(values)) for key, values in row.items()}
        for epoch, row in steps.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table = table.join(pd.DataFrame.from_dict(scores, orient="index"), how="outer")
    return table.sort_index().rename_axis("epoch")


def _last_metrics(curves: pd.DataFrame) -> dict[str, float]:
    """The metrics of the last validation, which is that of the last epoch."""
    columns = [name for name in curves if name not in ("loss", "lr")]
    rows = curves[columns].dropna(how="all")
    return {} if rows.empty else {k: float(v) for k, v in rows.iloc[-1].dropna().items()}
