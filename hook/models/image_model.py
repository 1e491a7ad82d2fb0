"""The one way into a model of images."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor


class ImageModel(BaseModel):
    """MMEngine's ``BaseModel`` with a method for each of its modes, as mmseg's segmentors have."""

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: str = "tensor",
    ) -> Any:
        """Run the model.

        Args:
            inputs: (B, C, H, W) normalised images.
            data_samples: Their samples, which ``loss`` needs.
            mode: ``'tensor'`` returns the output of the network, ``'loss'`` a dict of losses,
                ``'predict'`` data samples; others raise ValueError.
        """
        if mode == "tensor":
            return self._forward(inputs, data_samples)
        if mode == "loss":
            return self.loss(inputs, data_samples)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")
