"""Predict windows of a scene."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.engine import tta as tta_views
from hook.engine.devices import require_compiler
from hook.engine.models import is_segmentation
from hook.errors import ConfigError
from hook.geo.bands import to_model_units
from hook.inference.models import chosen_tokens
from hook.structures import ImageTokens
from hook.tokenizers import ImageFacts, SeedMap

PRECISIONS = ("fp32", "bf16")


class WindowPredictor:
    """A model as the function that :func:`hook.scenes.map_scene` calls.

    Args:
        model: From :func:`hook.apis.load_model`, in evaluation mode.
        tta: Average over views of each window, ``"flip"`` or ``"d4"``
            (:func:`hook.engine.tta.views`).
        precision: ``"fp32"``, or ``"bf16"`` for automatic mixed precision.
        compile: Compile the model; the first batch then takes longer.
        num_tokens: Number of tokens per window; default: the model's.
        resolution: Metres per pixel, for a tokenizer with resolution; default: that of training.

    Raises:
        ConfigError: The model is in training mode, or an option is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        tta: str | None = None,
        precision: str = "fp32",
        compile: bool = False,
        num_tokens: int | None = None,
        resolution: float | None = None,
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
                    remedy="choose one of these",
                )
        self.model, self.tta, self.precision = model, tta, precision
        self.num_tokens, self.resolution = chosen_tokens(model, num_tokens), resolution
        self.device = next(model.parameters()).device
        self.segments = is_segmentation(model)
        self._has_tokens = hasattr(model, "infer")
        self._forward = getattr(model, "infer", getattr(model, "inference", model.forward))
        if compile:
            require_compiler()
            self._forward = torch.compile(self._forward)

    def __call__(self, windows: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Predict a batch of windows.

        Args:
            windows: (B, C, h, w) native values in the model's band order.
            valid: (B, h, w) bool.

        Returns:
            float32 class probabilities, (B, K, h, w) of a segmentation, (B, K) of a classification.
        """
        return self._predict(windows, valid)[0]

    def with_tokens(
        self, windows: np.ndarray, valid: np.ndarray
    ) -> tuple[np.ndarray, list[ImageTokens]]:
        """Predict as a call does, and return the tokens of each window too.

        Raises:
            ConfigError: The windows do not fit the model, or it slides over them.
        """
        return self._predict(windows, valid, with_tokens=True)

    @torch.inference_mode()
    def perceive(self, windows: np.ndarray, valid: np.ndarray) -> SeedMap:
        """Compute the seeds of windows, without the rest of the model."""
        inputs, _, facts = self._prepare(windows, valid)
        tokenizer = self.model.backbone.tokenizer
        return tokenizer.perceive(inputs, (facts or ImageFacts()).accepted_by(tokenizer))

    def _prepare(
        self, windows: np.ndarray, valid: np.ndarray
    ) -> tuple[Tensor, Tensor, ImageFacts | None]:
        """Return the inputs of the model, their validity, and the facts that it takes."""
        model, size = self.model, windows.shape[-2:]
        values = torch.from_numpy(to_model_units(windows, valid, model.dataset_meta))
        inputs = model.data_preprocessor({"inputs": list(values.to(self.device))}, False)["inputs"]
        # The preprocessor may have padded the windows.
        missing = (0, inputs.shape[-1] - size[1], 0, inputs.shape[-2] - size[0])
        known = F.pad(torch.from_numpy(np.asarray(valid, bool)).to(self.device), missing)
        if not self._has_tokens:
            return inputs, known, None
        # No mask where nothing is missing, as in training and `tools/test.py`.
        marked = model.marks_invalid and not known.all()
        return inputs, known, ImageFacts(known if marked else None, self.resolution)

    @torch.inference_mode()
    def _predict(
        self, windows: np.ndarray, valid: np.ndarray, with_tokens: bool = False
    ) -> tuple[np.ndarray, list[ImageTokens] | None]:
        model, size, tokens = self.model, windows.shape[-2:], []
        inputs, known, facts = self._prepare(windows, valid)
        if with_tokens:
            model.check_one_pass(inputs)

        def predict(view: Tensor, view_facts: ImageFacts | None = None) -> Tensor:
            if self._has_tokens:
                wanted = with_tokens and not tokens  # of the first view, the image itself
                logits, found = self._forward(view, view_facts, self.num_tokens, with_tokens=wanted)
                tokens.extend(found or ())
                return self._scores(logits)
            shape = tuple(view.shape[-2:])
            metas = [{"ori_shape": shape, "img_shape": shape, "pad_shape": shape}] * len(view)
            return self._scores(self._forward(view, *([metas] if self.segments else [])))

        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                if self.tta:
                    scores = tta_views.mean_over_views(predict, inputs, self.tta, facts)
                else:
                    scores = predict(inputs, facts)
        except ValueError as error:  # raised by a tokenizer of fixed size
            raise ConfigError(
                f"windows of {size[0]} x {size[1]} pixels do not fit the model",
                found=error,
                remedy="omit --window for the model's input size",
            ) from None
        if self.segments:
            scores = scores[..., : size[0], : size[1]]
        for row, one in enumerate(tokens):
            one.valid, one.size = known[row], size
        return scores.cpu().numpy(), tokens

    def _scores(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if not self.segments or logits.shape[1] > 1:
            return logits.softmax(dim=1)
        positive = logits.sigmoid()  # one output for two classes
        return torch.cat([1 - positive, positive], dim=1)
