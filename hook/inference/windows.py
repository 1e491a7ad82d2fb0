"""A model as a function of windows."""

import numpy as np
import torch
from torch import nn

from hook.engine import tta as tta_views
from hook.engine.models import is_segmentation
from hook.engine.profiling import require_compiler
from hook.errors import ConfigError
from hook.geo.bands import to_model_units
from hook.tokenizers.validity import mark_invalid

PRECISIONS = ("fp32", "bf16")


class WindowPredictor:
    """A model as the function that :func:`hook.scenes.map_scene` calls.

    Args:
        model: From :func:`hook.apis.load_model`, in evaluation mode.
        tta: Average over views of each window, ``"flip"`` or ``"d4"``
            (:func:`hook.engine.tta.views`); None: the window as it is.
        precision: ``"fp32"``, or ``"bf16"`` for automatic mixed precision.
        compile: Compile the model; the first batch then takes longer.

    Raises:
        ConfigError: The model is in training mode, or an option is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        tta: str | None = None,
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        if model.training:
            raise ConfigError(
                "the model is in training mode",
                expected="evaluation mode",
                found="training mode",
                remedy="call model.eval(), as load_model does",
            )
        for name, value, known in (
            ("tta", tta, (None, *tta_views.KINDS)),
            ("precision", precision, PRECISIONS),
        ):
            if value not in known:
                raise ConfigError(
                    f"unknown {name}",
                    expected=f"one of {known}",
                    found=value,
                    remedy=f"choose {name} among these",
                )
        self.model, self.tta, self.precision = model, tta, precision
        self.device = next(model.parameters()).device
        self.segments = is_segmentation(model)
        self._forward = model.inference if self.segments else model.forward
        if compile:
            require_compiler()
            self._forward = torch.compile(self._forward)

    @torch.inference_mode()
    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Predict a batch of windows.

        Args:
            windows: (B, C, h, w) native values in the model's band order.
            valid: (B, h, w) bool.

        Returns:
            (B, K, h, w) float32 class probabilities of a segmentation, (B, K) of a classification.
        """
        inputs = torch.from_numpy(to_model_units(windows, valid, self.model.dataset_meta))
        if getattr(self.model.data_preprocessor, "mark_invalid", False):
            inputs = mark_invalid(inputs, torch.from_numpy(valid))
        data = self.model.data_preprocessor({"inputs": list(inputs.to(self.device))}, False)
        inputs = data["inputs"]
        predict = self._probabilities
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                if self.tta:
                    scores = tta_views.mean_over_views(predict, inputs, self.tta)
                else:
                    scores = predict(inputs)
        except ValueError as error:  # a tokenizer tied to a size says so this way
            raise ConfigError(
                f"windows of {windows.shape[-2]} x {windows.shape[-1]} pixels do not fit the model",
                found=error,
                remedy="leave --window out for the size the model was made for",
            ) from None
        if not self.segments:
            return scores.cpu().numpy()
        # The preprocessor may have padded the windows to a multiple of what the model wants.
        return scores[..., : windows.shape[-2], : windows.shape[-1]].cpu().numpy()

    def _probabilities(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.segments:
            return self._forward(inputs).float().softmax(dim=1)
        size = tuple(inputs.shape[-2:])
        meta = {"ori_shape": size, "img_shape": size, "pad_shape": size}
        logits = self._forward(inputs, [meta] * len(inputs)).float()
        if logits.shape[1] > 1:
            return logits.softmax(dim=1)
        positive = logits.sigmoid()  # one output for two classes
        return torch.cat([1 - positive, positive], dim=1)
