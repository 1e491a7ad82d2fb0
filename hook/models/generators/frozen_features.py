"""Features of a frozen network, towards which a flow is drawn in training."""

import copy

import torch
from torch import Tensor, nn

from hook.registry import MODELS


class FrozenFeatures(nn.Module):
    """The last feature map of a network that is not trained, and is built when it is first needed.

    It is no part of the state of a model that uses it.

    Args:
        cfg: Config of a network such as :class:`hook.models.FrozenBackbone`.
        bands: Bands of the images.
    """

    def __init__(self, cfg: dict, bands: int) -> None:
        super().__init__()
        self._cfg, self._bands, self.network = copy.deepcopy(cfg), bands, None

    def build(self) -> nn.Module:
        """Return the network.

        Raises:
            ConfigError: It does not see these bands, or cannot be built.
        """
        if self.network is None:
            network = MODELS.build(self._cfg)
            network.check_bands(self._bands)
            self.network = network
        return self.network

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, D, h, w) of normalised images (B, C, H, W)."""
        return self.build().to(images.device)(images)[-1].float()

    def beside(self, codec: nn.Module) -> nn.Module:
        """Return an autoencoder and the network, for the digest of what both make of images."""
        network = self.build()
        both = nn.ModuleDict(dict(codec=codec, frozen=network.network))
        both.name = f"{type(codec).__name__} and {network.name}"
        return both
