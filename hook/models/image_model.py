"""The one way into a model of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class ImageModel(BaseModel):
    """MMEngine's ``BaseModel`` with a method for each of its modes, as mmseg's segmentors have."""

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: str = "tensor",
        resized: bool = False,
    ) -> Any:
        """Run the model.

        Args:
            inputs: (B, C, H, W) normalised images.
            data_samples: Their samples, which ``loss`` needs.
            mode: ``'tensor'`` returns the output of the network, ``'loss'`` a dict of losses,
                ``'predict'`` data samples; others raise ValueError.
            resized: Compute the loss with the running statistics of batch normalisation, and leave
                them: those of enlarged or reduced images differ, and predictions use one set.
        """
        if mode == "tensor":
            return self._forward(inputs, data_samples)
        if mode == "loss":
            with fixed_statistics(self, resized):
                return self.loss(inputs, data_samples)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")


@contextmanager
def fixed_statistics(model: nn.Module, fixed: bool = True) -> Iterator[None]:
    """Let batch normalisation use its running statistics while training, if ``fixed``."""
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm) and one.training]
    norms = norms if fixed else []
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
