"""Models of segmentation_models_pytorch as backbones."""

import difflib
from collections.abc import Collection

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.registry import MODELS


@MODELS.register_module()
class SMPBackbone(BaseModule):
    """A model of segmentation_models_pytorch up to its classifier: U-Net, FPN, DeepLabV3+, ...

    The decoder's feature map is the input of any decode head of mmseg; ``FCNHead`` with
    ``num_convs=0`` and ``concat_input=False`` is a plain classifier. Images may have any size: for
    models that require multiples of the encoder's stride they are zero-padded at the bottom and
    the right, and the features are cropped.

    Args:
        arch: The library's name of the model: ``'Unet'``, ``'UnetPlusPlus'``, ``'FPN'``,
            ``'DeepLabV3Plus'``, ...
        encoder_name: The library's name of the encoder: ``'resnet34'``, or ``'tu-'`` and timm's.
        encoder_weights: Weights to download before training: ``'imagenet'`` or a different name
            that the library lists for the encoder, or True for an encoder of timm. None trains
            from scratch.
        in_channels: Number of bands.
        init_cfg: MMEngine's initialisation config.
        **kwargs: Further options of the model, such as ``encoder_depth``, ``decoder_channels``.

    Attributes:
        out_channels (int): Channels of the feature map, ``in_channels`` of the head; 16 for a
            U-Net with the defaults.

    Raises:
        ConfigError: The library has no such model, encoder or weights.

    Reference:
        Iakubovskii, "Segmentation Models Pytorch", 2019,
        https://github.com/qubvel-org/segmentation_models.pytorch
    """

    def __init__(
        self,
        arch: str = "Unet",
        encoder_name: str = "resnet34",
        encoder_weights: str | bool | None = None,
        in_channels: int = 3,
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(init_cfg)
        archs = {cls.__name__ for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
        _check_name("arch", arch, archs)
        if not encoder_name.startswith(("tu-", "timm-")):
            _check_name("encoder_name", encoder_name, smp.encoders.get_encoder_names())
            if encoder_weights is not None:
                known = smp.encoders.encoders[encoder_name]["pretrained_settings"]
                _check_name("encoder_weights", encoder_weights, known)
        self.in_channels = in_channels
        self.encoder_weights = encoder_weights
        self._options = dict(
            arch=arch, encoder_name=encoder_name, in_channels=in_channels, **kwargs
        )
        self.model = smp.create_model(**self._options, encoder_weights=None)
        head = self.model.segmentation_head
        self.out_channels = next(m for m in head.modules() if isinstance(m, nn.Conv2d)).in_channels
        self.model.segmentation_head = nn.Identity()

    def init_weights(self) -> None:
        """Download the encoder's weights if ``encoder_weights`` is set, then apply ``init_cfg``.

        Raises:
            ConfigError: The weights cannot be downloaded.
        """
        if self.encoder_weights is not None and not self.is_init:
            try:
                source = smp.create_model(**self._options, encoder_weights=self.encoder_weights)
            except OSError as error:
                raise ConfigError(
                    "model.backbone: the encoder's weights cannot be fetched",
                    expected=f"{self.encoder_weights} weights of "
                    f"{self._options['encoder_name']} from the Hugging Face hub or its cache",
                    found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
                    remedy="start once with network access and copy the folder HF_HOME "
                    "(~/.cache/huggingface), or train from scratch: encoder_weights=None",
                ) from None
            self.model.encoder.load_state_dict(source.encoder.state_dict())
        super().init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Compute the decoder's feature map of images (B, C, H, W).

        Returns:
            One map (B, ``out_channels``, H / s, W / s) with the model's stride s, 1 for a U-Net;
            resized to (H, W) if H or W is not divisible by s.
        """
        height, width = x.shape[-2:]
        if not self.model.requires_divisible_input_shape:
            return (self.model(x),)
        stride = self.model.encoder.output_stride
        x = F.pad(x, (0, -width % stride, 0, -height % stride))
        features = self.model(x)
        stride = x.shape[-1] // features.shape[-1]
        if height % stride or width % stride:
            # A crop on the coarse grid would cover more than the image.
            features = F.interpolate(features, x.shape[-2:], mode="bilinear", align_corners=False)
            stride = 1
        return (features[..., : height // stride, : width // stride],)


def _check_name(option: str, name: object, known: Collection[str]) -> None:
    """Raise ConfigError for a name unknown to the library."""
    if name in known:
        return
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    raise ConfigError(
        f"model.backbone.{option} is unknown to segmentation_models_pytorch",
        expected=", ".join(sorted(known)),
        found=name,
        remedy=f"did you mean {' or '.join(close)}?" if close else "choose one of these",
    )
