"""Train a config: work dir, run, curves."""

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config

from hook.checkpoint import find_resumable, load_checkpoint
from hook.engine.configs import load_config, make_folder
from hook.engine.frozen_features import CODE_FILES, FILES
from hook.engine.progress import QuietRunner, TrainingProgressHook, use_device
from hook.engine.runner import build_runner, set_resume
from hook.errors import ConfigError
from hook.geo.staging import atomic_write, check_output

_FILES_OF_A_RUN = (
    *("config.py", "last_checkpoint", "checkpoint.pth", "epoch_*.pth", "iter_*.pth", "best_*.pth"),
    *("arrays/labels.gpkg", "arrays/split.gpkg", CODE_FILES, FILES),
)


@dataclass(frozen=True)
class TrainingResult:
    """Files and results of a training run.

    Attributes:
        config: The config, for ``tools/train.py`` and the ``hook`` commands.
        checkpoint: Weights and dataset meta after the last epoch.
        metrics: On the held-out part, in percent: ``mIoU``, ``aAcc`` (overall accuracy), ``mAcc``,
            ``IoU.<class>``, and further metrics of the base config; empty without labels.
        work_dir: Folder of the files.
        log: MMEngine's log of the run.
        curves: A row per epoch: ``loss`` (mean), ``lr``, and the metrics of validated epochs.
    """

    config: Path
    checkpoint: Path
    metrics: dict[str, float]
    work_dir: Path
    log: Path | None
    curves: pd.DataFrame = field(repr=False)


def prepare_work_dir(
    out: Path, overwrite: bool = False, resume: bool = False, inputs: Iterable[object] = ()
) -> Path:
    """Create the folder of a training run.

    Args:
        out: The folder.
        overwrite: Remove the files of an earlier run.
        resume: Keep the files of an earlier run.
        inputs: Names of files that the training reads.

    Raises:
        ConfigError: If the folder has a run and neither option is set, an input would be replaced
            or removed, or the folder cannot be created.
    """
    if overwrite and resume:
        raise ConfigError(
            "overwrite and resume exclude each other",
            expected="one of them",
            found="both",
            remedy="resume continues the earlier run, overwrite starts a new one",
        )
    make_folder(out, "work_dir")
    names = ("config.py", "checkpoint.pth", "last_checkpoint", "epoch_*.pth")
    found = [path for name in names for path in sorted(out.glob(name))]
    if found and not (overwrite or resume):
        raise ConfigError(
            f"work_dir {out} already contains a training run",
            expected="a folder without one",
            found=found[0],
            remedy="choose a different folder, or set overwrite=True or resume=True",
        )
    old = [path for name in _FILES_OF_A_RUN for path in out.glob(name)]
    if not resume:
        # Polygons for this run may be there already.
        replaced = [path for path in old if overwrite or path.name != "labels.gpkg"]
        check_output(replaced, inputs, ConfigError)
    if overwrite:
        for scalars in out.glob("*/vis_data/scalars.json"):
            shutil.rmtree(scalars.parents[1])  # a run's folder: log and curves
        for path in old:
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
    """Train a config; config and weights are written to its ``work_dir``.

    Args:
        cfg: The config.
        resume: Continue an interrupted run of the same config.
        best: Keep the weights selected by the config's ``save_best`` instead of the last ones.
        progress: Show a progress bar.
        device: Device; None uses a GPU if available.

    Raises:
        ConfigError: If a part of the config cannot be built, does not match the data, or differs
            from the interrupted run.
        DataError: If the data do not match the config.
    """
    out = Path(cfg.work_dir)
    config, checkpoint = out / "config.py", out / "checkpoint.pth"
    _write_config(cfg, config, resume)
    # Trains the written file. Checkpoints store the config as text; formatting it as Python code
    # would take MMEngine a second each time.
    cfg = Config(load_config(config).to_dict(), filename=str(config), format_python_code=False)
    if resume:
        set_resume(cfg, "auto")
    try:
        _run(cfg, progress, device)
    except BaseException:
        if not resume and find_resumable(out) is None:
            config.unlink()  # nothing to resume, so the next attempt is a new run
        raise
    chosen = sorted(out.glob("best_*.pth"), key=os.path.getmtime) if best else [find_resumable(out)]
    _keep_weights(chosen[-1] if chosen else None, checkpoint)
    curves = read_curves(out)
    logs = sorted(out.glob("*/*.log"))
    return TrainingResult(
        config, checkpoint, _last_metrics(curves), out, logs[-1] if logs else None, curves
    )


def _run(cfg: Config, progress: bool, device: str | None) -> None:
    """Run the training of a config with one progress bar."""
    with use_device(device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"mmcv|mmseg|mmengine|timm")
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.optim")
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning)
        with contextlib.redirect_stdout(io.StringIO()):  # messages before the log exists
            runner = build_runner(cfg, QuietRunner)
        runner.register_hook(TrainingProgressHook(progress))
        runner.train()


def _write_config(cfg: Config, path: Path, resume: bool) -> None:
    """Write the config, or check that it equals the config of the interrupted run."""
    if resume and path.is_file():
        before, now = (_settings(c) for c in (Config.fromfile(path), cfg))
        changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if changed:
            raise ConfigError(
                f"{path}: the interrupted run had different settings",
                expected="the same arguments as before",
                found=f"differences in {', '.join(changed)}",
                remedy="pass the same arguments, or start a new run with overwrite=True",
            )
        return
    with atomic_write(path) as partial:
        partial.write_text(cfg.pretty_text, encoding="utf-8")


def _settings(cfg: Config) -> dict[str, Any]:
    # As JSON, so that lists and tuples are equal.
    plain = json.loads(json.dumps(cfg.to_dict(), default=str, sort_keys=True))
    return {k: v for k, v in plain.items() if k not in ("resume", "load_from", "work_dir")}


def _keep_weights(source: Path | None, target: Path) -> None:
    """Write meta and weights of a checkpoint, without the state of the training."""
    if source is None:
        raise ConfigError(
            "the training wrote no checkpoint",
            expected="default_hooks.checkpoint, with save_best to keep the best",
            found="none",
            remedy="start from a base config with default_hooks.checkpoint=dict(interval=1)",
        )
    content = load_checkpoint(source)
    kept = {key: content[key] for key in ("meta", "state_dict") if key in content}
    # Given a name, PyTorch 2.8 does not notice that a disk is full when it closes the file.
    with atomic_write(target) as part, open(part, "wb") as file:
        torch.save(kept, file)


def read_curves(work_dir: str | os.PathLike) -> pd.DataFrame:
    """Read the curves of a training by epochs, including its interrupted runs.

    Args:
        work_dir: Folder of the training.

    Returns:
        Table indexed by ``epoch`` from 1: ``loss`` and ``lr`` (means of the logged steps), and the
        metrics of validated epochs.
    """
    steps: dict[int, dict[str, list[float]]] = {}
    scores: dict[int, dict[str, float]] = {}
    for file in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        epochs: dict[int, dict[str, list[float]]] = {}
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if "loss" in entry and "epoch" in entry:
                row = epochs.setdefault(int(entry["epoch"]), {})
                for key in ("loss", "lr"):  # of the autoencoder, beside its discriminator's
                    value = entry.get(key, entry.get(f"autoencoder.{key}"))
                    row.setdefault(key, []).append(value)
            elif "step" in entry:
                timing = ("step", "data_time", "time")
                scores[int(entry["step"])] = {k: v for k, v in entry.items() if k not in timing}
        steps |= epochs  # an interrupted epoch was run again
    rows = {
        epoch: {key: float(np.mean(values)) for key, values in row.items()}
        for epoch, row in steps.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table = table.join(pd.DataFrame.from_dict(scores, orient="index"), how="outer")
    return table.sort_index().rename_axis("epoch")


def _last_metrics(curves: pd.DataFrame) -> dict[str, float]:
    """Return the metrics of the last validation, after the last epoch."""
    columns = [name for name in curves if name not in ("loss", "lr")]
    rows = curves[columns].dropna(how="all")
    return {} if rows.empty else {k: float(v) for k, v in rows.iloc[-1].dropna().items()}
