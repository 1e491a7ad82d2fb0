"""Keep checkpoints of sound weights, in the run's own folder."""

import math
import os
from collections.abc import Iterable
from glob import escape, glob
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from hook.checkpoint import nonfinite_weights
from hook.errors import ConfigError, HookError
from hook.geo.staging import atomic_write
from hook.registry import HOOKS


@HOOKS.register_module()
class SoundCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, which :class:`hook.engine.runner.HookRunner` replaces by this.

    - A training whose weights become NaN or infinite ends before it saves them, so that no
      earlier checkpoint is deleted for them and none of them is the best.
    - Outdated checkpoints are removed when the new one is complete; MMEngine removes them first.
    - A run resumed in another folder than its checkpoint's leaves that folder as it is.
    - ``save_best='auto'`` uses the first metric whose rule is known.

    Raises:
        HookError: If the training diverges.
        ConfigError: If ``save_best`` names a metric that is not computed.
    """

    _default_greater_keys = [
        *CheckpointHook._default_greater_keys,
        *"IoU Fscore F1 recall Dice kappa mean_class PSNR SSIM".split(),
        *"TokenShare ObjectShare TokenASA TokenARI TokenEV TokenCO".split(),
    ]
    _default_less_keys = [
        *CheckpointHook._default_less_keys,
        *"error MSE MAE TokenUE TokenVI".split(),
    ]

    _has_finite_loss = True  # of the last iteration

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.args:  # MMEngine would hand them to a function that knows none, at the first save
            name = next(iter(self.args))
            raise TypeError(
                f"CheckpointHook.__init__() got an unexpected keyword argument '{name}'"
            )

    def before_train(self, runner: Runner) -> None:
        """Look up the files of a resumed run in this run's folder."""
        info = runner.message_hub.runtime_info
        resumed = info.get("resumed_from")
        if resumed is not None:
            folder = runner.work_dir
            if self.out_dir not in (None, folder):
                folder = os.path.join(self.out_dir, os.path.basename(folder.rstrip(os.sep)))
            if os.path.realpath(os.path.dirname(resumed)) != os.path.realpath(folder):
                info.pop("keep_ckpt_ids", None)
            keys = [key for key in info if key.startswith("best_ckpt") and info[key]]
            for key in keys:
                own = os.path.join(folder, os.path.basename(info[key]))
                if not os.path.isfile(own):
                    runner.logger.warning(f"The best checkpoint so far is not here: {info[key]}")
                info[key] = own
            others = {*glob(os.path.join(escape(folder), "best_*.pth"))}
            others -= {info[key] for key in keys}
            if others:
                runner.logger.warning(
                    f"Not of this run up to here, and not replaced: {', '.join(sorted(others))}"
                )
        super().before_train(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None):
        """End a training that diverged, else save a checkpoint if it is time."""
        loss = float(torch.as_tensor((outputs or {}).get("loss", 0.0)).detach())
        if not math.isfinite(loss):
            self._check_weights(runner)
            if self._has_finite_loss:
                runner.logger.warning(
                    f"The loss is {loss} in iteration {runner.iter + 1}; the weights are finite."
                )
        self._has_finite_loss = math.isfinite(loss)
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._check_weights(runner)
        kept = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        if self.max_keep_ckpts > 0 and step not in kept[-1:]:
            self.keep_ckpt_ids.append(step)  # drops the oldest
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            with atomic_write(Path(runner.work_dir, "last_checkpoint")) as partial:
                partial.write_text(self.last_ckpt)
        outdated = [one for one in kept if one not in self.keep_ckpt_ids]
        self._remove(
            self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(one))
            for one in outdated
        )

    def _remove(self, files: Iterable[str]) -> None:
        for path in files if is_main_process() else ():
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        self._check_weights(runner)
        if "auto" in self.key_indicators:
            metrics = self._rank_metrics(runner, metrics)
        absent = [key for key in self.key_indicators if key != "auto" and key not in metrics]
        if absent:
            raise ConfigError(
                f"default_hooks.checkpoint.save_best: {', '.join(absent)} is not computed",
                expected=f"one of {', '.join(metrics)}",
                found=", ".join(absent),
                remedy="name one of these metrics, or add one to val_evaluator",
            )
        for key in set(self.key_indicators) & set(metrics):
            if metrics[key] is not None and not math.isfinite(metrics[key]):
                runner.logger.warning(f"{key} is {metrics[key]}, which is never the best score.")
                metrics = {**metrics, key: None}
        if not metrics:
            return
        info = runner.message_hub.runtime_info
        before = {info[key] for key in info if key.startswith("best_ckpt")} - {None}
        # MMEngine would remove these first.
        self.best_ckpt_path, self.best_ckpt_path_dict = None, dict.fromkeys(self.key_indicators)
        super()._save_best_checkpoint(runner, metrics)
        self.best_ckpt_path = info.get("best_ckpt")
        self.best_ckpt_path_dict = {
            key: info[name] for key in self.key_indicators if (name := f"best_ckpt_{key}") in info
        }
        self._remove(before - {info[key] for key in info if key.startswith("best_ckpt")})

    def _rank_metrics(self, runner: Runner, metrics: dict) -> dict:
        """Return the metrics from the first one on whose rule is known."""
        names = list(metrics)
        for position, name in enumerate(names):
            try:
                self._init_rule(self.rules, [name])
            except ValueError:
                continue
            if position:
                runner.logger.warning(
                    f"save_best='auto' keeps the best {name}: whether more of {names[0]} is better "
                    "is not known. To use it, set save_best and rule."
                )
            return {key: metrics[key] for key in names[position:]}
        runner.logger.warning(
            "save_best='auto' keeps no best checkpoint: whether more is better is known of none of "
            f"{', '.join(names)}. Set save_best and rule."
        )
        self.save_best = None
        return {}

    def _check_weights(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        broken = nonfinite_weights(model.state_dict())
        if broken:
            last = runner.message_hub.runtime_info.get("last_ckpt")
            raise HookError(
                f"the training diverged: its weights are NaN or infinite in iteration "
                f"{runner.iter + 1}, and are not saved",
                expected="finite weights",
                found=f"NaN or infinity in {broken}",
                remedy="lower optim_wrapper.optimizer.lr, lengthen the warm-up or set "
                "optim_wrapper.clip_grad=dict(max_norm=1.0)"
                + (f"; the last sound checkpoint is {last}" if last else ""),
            )
