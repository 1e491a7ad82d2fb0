"""Run the validation that was missing when a training was interrupted."""

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from hook.registry import HOOKS


@HOOKS.register_module()
class ResumeValidationHook(Hook):
    """Validate before training continues, if the resumed checkpoint was not validated.

    MMEngine saves the checkpoint of an epoch, then validates it. A run killed in between would
    resume with the next epoch and lose that score, possibly the best one.
    """

    # After CheckpointHook has read the best score so far from the message hub.
    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        """Run the missing validation of a resumed run."""
        loop = runner.train_loop
        if "resumed_from" not in runner.message_hub.runtime_info:
            return
        if runner.val_loop is None or not isinstance(loop, EpochBasedTrainLoop):
            return
        epoch = loop.epoch
        due = epoch >= loop.val_begin and (
            epoch % loop.val_interval == 0 or epoch == loop.max_epochs
        )
        if not due or epoch == 0:
            return
        if runner.message_hub.runtime_info.get("epoch_validated") == epoch:
            return
        runner.logger.info(f"Epoch {epoch} was saved but its validation is not on record.")
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.last_ckpt is None:
                # A new best score is written to this checkpoint, as without the interruption.
                hook.last_ckpt = runner.message_hub.get_info("resumed_from")
        runner.val_loop.run()

    def before_val_epoch(self, runner: Runner) -> None:
        """Record the epoch, so that it is saved in the checkpoint of a new best score."""
        runner.message_hub.update_info("epoch_validated", runner.epoch)
