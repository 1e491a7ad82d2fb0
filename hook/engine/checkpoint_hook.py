"""Keep checkpoints of sound weights, in the run's own folder."""

import math
import os
from glob import escape, glob

import torch
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from hook.checkpoint import nonfinite_weights
from hook.errors import ConfigError, HookError
from hook.registry import HOOKS


@HOOKS.register_module()
class SoundCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, which :class:`hook.engine.runner.HookRunner` replaces by this.

    - A training whose weights become NaN or infinite ends before it saves them, so that no
      earlier checkpoint is deleted for them and none of them is the best.
    - A run resumed in another folder than its checkpoint's leaves that folder as it is.
    - ``save_best='auto'`` uses the first metric whose rule is known.

    Raises:
        HookError: If the training diverges.
        ConfigError: If ``save_best`` names a metric that is not computed.
    """

    _default_greater_keys = [
        *CheckpointHook._default_greater_keys,
        *"IoU Fscore F1 recall Dice kappa mean_class PSNR SSIM".split(),
        *"TokenShare ObjectShare TokenASA TokenEV TokenCO".split(),
    ]
    _default_less_keys = [
        *CheckpointHook._default_less_keys,
        *"error MSE MAE TokenUE TokenVI".split(),
    ]

    _has_finite_loss = True  # of the last iteration

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
        self._check_weights(runner)  # before an earlier checkpoint is removed
        super()._save_checkpoint_with_step(runner, step, meta)

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
        if metrics:
            super()._save_best_checkpoint(runner, metrics)

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
