"""Homogeneity of a model's tokens as a metric beside mIoU."""

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import BaseDataElement
from prettytable import PrettyTable
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from hook.errors import ConfigError, DataError
from hook.evaluation.boundary import check_tolerance
from hook.evaluation.homogeneity import (
    MEASURES,
    NO_REGION,
    explained_variation,
    measure_regions,
    stuff_classes,
)
from hook.evaluation.samples import class_names, truth_and_prediction
from hook.evaluation.superpixels import merge_specks
from hook.registry import METRICS
from hook.tokenizers import TokenizerOutput, token_map
from hook.tokenizers.assignment import resize_nearest


@METRICS.register_module()
class HomogeneityMetric(BaseMetric):
    """How far a token is an object: measures of each test image's token map, and their means.

    The measures are those of :data:`hook.evaluation.homogeneity.MEASURES`, of the map that gives
    each pixel the token that owns its seed (see :func:`hook.tokenizers.token_map`). Objects are
    the connected components of each class; a class named ``background`` is one object. An image
    in which a measure is undefined does not count for its mean.

    It stands in a list beside ``hook.IoUMetric`` and needs nothing else in the config: the first
    image that passes through the model shows it which model that is, and it runs the tokenizer
    once more on each test image. Samples with a ``token_map`` (1, h, w) of their own are measured
    by that one.

    Args:
        tolerance: Largest distance at which boundaries match, Euclidean, in pixels, this value
            included.
        min_region: Smallest connected part of a token that stays, in pixels (see
            :func:`hook.evaluation.superpixels.merge_specks`); 0 keeps all. Not for a
            ``token_map`` of a sample's own.
        ignore_index: Label of pixels that do not count.
        collect_device: As in MMEngine.
        prefix: First part of the metric names.

    Reference:
        Shao et al. (2024), arXiv:2403.18593; each measure cites its own.
    """

    def __init__(
        self,
        tolerance: float = 3,
        min_region: int = 0,
        ignore_index: int = 255,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_tolerance(tolerance, "hook.HomogeneityMetric: tolerance")
        if min_region < 0:
            raise ConfigError(
                "hook.HomogeneityMetric: min_region is below zero",
                expected="a number of pixels",
                found=min_region,
                remedy="set min_region to 0 to keep all parts, or to a number of pixels",
            )
        self.tolerance, self.min_region = tolerance, min_region
        self.ignore_index = ignore_index
        self._seen = _ModelInSight()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measure the token maps of one batch.

        Args:
            data_batch: ``inputs``, B images (C, h, w) in model units as the dataset gives them,
                and their ``data_samples``.
            data_samples: mmseg's SegDataSample objects as dictionaries, with ``gt_sem_seg``
                (1, H, W) and ``pred_sem_seg`` (1, H, W).

        Raises:
            ConfigError: The model has no tokenizer.
            DataError: Mask and prediction differ in size, or a class is out of range.
        """
        classes = class_names(self.dataset_meta, "hook.HomogeneityMetric")
        nothing, batch = [None] * len(data_samples), data_batch or {}
        images, packed = batch.get("inputs", nothing), batch.get("data_samples", nothing)
        for image, before, sample in zip(images, packed, data_samples, strict=True):
            values = None
            if "gt_sem_seg" in sample:
                truth, _ = truth_and_prediction(sample, len(classes), self.ignore_index)
                values = self._measure(image, before, sample, truth.numpy(), stuff_classes(classes))
            self.results.append(values)

    def _measure(
        self,
        image: Tensor | None,
        before: BaseDataElement | None,
        sample: dict,
        truth: np.ndarray,
        stuff: tuple[int, ...],
    ) -> np.ndarray:
        """Measure one image; its explained variation on its own grid, the rest on the mask's."""
        if "token_map" in sample:
            regions = sample["token_map"]["data"].squeeze(0).cpu().numpy()
        else:
            if image is None:
                raise DataError(
                    "hook.HomogeneityMetric got samples without their images",
                    expected="inputs in data_batch, or token_map in every sample",
                    remedy="run the metric with tools/test.py",
                )
            preprocessor, backbone = self._seen.parts()
            regions = pixel_token_map(
                preprocessor, backbone, image, before, min_region=self.min_region
            )
        values = measure_regions(
            resize_nearest(regions, truth.shape),
            truth,
            tolerance=self.tolerance,
            ignore_index=self.ignore_index,
            stuff=stuff,
        )
        if image is not None:
            pixels = image.detach().cpu().float().numpy().transpose(1, 2, 0)
            on_image = resize_nearest(regions, pixels.shape[:2])
            finite = np.isfinite(pixels).all(-1)
            values["EV"] = explained_variation(pixels, np.where(finite, on_image, NO_REGION))
        return np.array([values[name] for name in MEASURES])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Average over all images.

        Args:
            results: What :meth:`process` kept, each image once.

        Returns:
            ``TokenASA``, ``TokenUE`` and so on: the names of
            :data:`hook.evaluation.homogeneity.MEASURES` with ``Token`` in front where they lack
            it; percent, the variation of information in bits. Empty where no image has a mask.

        Raises:
            DataError: Some images have a mask and some have none.
        """
        logger = MMLogger.get_current_instance()
        labelled = [values for values in results if values is not None]
        if not labelled:
            print_log("No image has a mask: no homogeneity is computed.", logger=logger)
            return {}
        if len(labelled) < len(results):
            raise DataError(
                f"{len(results) - len(labelled)} of {len(results)} images have no mask",
                expected="a label for every image that is evaluated, or for none",
                remedy="give the masks, or leave the images out of test_dataloader",
            )
        table = PrettyTable(["Measure", "Mean over images", "What it is"], align="l")
        metrics: dict[str, float] = {}
        for (name, meaning), values in zip(MEASURES.items(), np.stack(labelled).T, strict=True):
            known = values[~np.isnan(values)]
            if not known.size:
                continue
            value = float(known.mean()) * (1 if name == "VI" else 100)
            shown = name if name.startswith("Token") else f"Token{name}"
            metrics[shown] = round(value, 4)
            table.add_row([shown, f"{value:.2f}", meaning])
        title = f"homogeneity of tokens, boundaries within {self.tolerance:g} px"
        print_log(f"{title}:\n{table.get_string()}", logger=logger)
        return metrics


# ---------------------------------------------------------------------------------- token maps
def tokenize_image(
    preprocessor: nn.Module,
    backbone: nn.Module,
    image: Tensor,
    sample: BaseDataElement | None = None,
    num_tokens: int | None = None,
) -> TokenizerOutput:
    """Tokenise one image as a model does when it is tested.

    Args:
        preprocessor: The model's data preprocessor.
        backbone: Its :class:`hook.models.TokenViT`, in any mode.
        image: (C, H, W) in model units.
        sample: What else the dataset gives, such as where the image is valid; is not changed.
        num_tokens: Number of tokens, of a :class:`hook.tokenizers.HookTokenizer`; None takes what
            the backbone would.

    Returns:
        Tokens (1, N, D), or (1, 1 + N, D) with a class token, and their assignment (1, N, h, w).
    """
    return _tokenize(backbone, _model_inputs(preprocessor, image, sample), num_tokens)


def _model_inputs(preprocessor: nn.Module, image: Tensor, sample: BaseDataElement | None) -> Tensor:
    """Normalise and pad one image as the model does, (1, C, H, W)."""
    data: dict = {"inputs": [image]}
    if sample is not None:
        data["data_samples"] = [sample.clone()]  # mmseg writes what it padded into it
    inputs = preprocessor(data, False)["inputs"]
    return inputs if isinstance(inputs, Tensor) else torch.stack(list(inputs))


@torch.no_grad()
def _tokenize(backbone: nn.Module, inputs: Tensor, num_tokens: int | None) -> TokenizerOutput:
    """Let the tokenizer of a backbone in any mode cut images as a test does."""
    tokenizer, was_training = backbone.tokenizer, backbone.training
    backbone.eval()
    try:
        if num_tokens is not None:
            return tokenizer(inputs, num_tokens)
        if getattr(backbone, "explained", None) is None:
            return tokenizer(inputs)
        seeds = tokenizer.perceive(inputs)
        count = int(tokenizer.count_tokens(seeds, backbone.explained))
        return tokenizer.vectorize(seeds, count)
    finally:
        backbone.train(was_training)


def spread_cells(cells: np.ndarray, tokenizer: nn.Module, size: tuple[int, int]) -> np.ndarray:
    """Give each pixel the value of the tokenizer's cell it lies in.

    Args:
        cells: (h, w) values on the tokenizer's grid, from the image's top left corner.
        tokenizer: Its ``patch_size`` or ``stride`` is the side of a cell in pixels; without
            either, the grid is stretched over the image.
        size: Height and width of the image in pixels. Rows and columns after the last whole cell,
            which a patch embedding leaves out, get the value next to them.

    Returns:
        (H, W).
    """
    side = getattr(tokenizer, "patch_size", getattr(tokenizer, "stride", None))
    row, column = (
        np.arange(length) * number // length
        if side is None
        else np.minimum(np.arange(length) // side, number - 1)
        for length, number in zip(size, cells.shape, strict=True)
    )
    return cells[row[:, None], column[None]]


def owners_of_cells(
    weights: Tensor, tokenizer: nn.Module, images: Tensor, min_region: int = 0
) -> np.ndarray:
    """Give every cell of an assignment its token, and specks to what they look like.

    Args:
        weights: (B, N, h, w) assignment.
        tokenizer: It is of; with ``min_region`` a :class:`hook.tokenizers.HookTokenizer`.
        images: (B, C, H, W) as the tokenizer got them.
        min_region: Smallest connected part of a token that stays, in pixels (see
            :func:`hook.evaluation.superpixels.merge_specks`); 0 keeps all. A patch embedding,
            whose tokens all have one size, has no specks.

    Returns:
        (B, h, w) int64 index of the token.
    """
    owners = token_map(weights).cpu().numpy()
    if not min_region or not hasattr(tokenizer, "mean_colours"):
        return owners
    valid = ~images.isnan().any(dim=1)
    colours = tokenizer.mean_colours(images.nan_to_num(), valid).cpu().numpy()
    cells = -(-min_region // tokenizer.stride**2)
    pairs = zip(owners, colours, strict=True)
    return np.stack([merge_specks(mine, bands, cells) for mine, bands in pairs])


def pixel_token_map(
    preprocessor: nn.Module,
    backbone: nn.Module,
    image: Tensor,
    sample: BaseDataElement | None = None,
    num_tokens: int | None = None,
    min_region: int = 0,
) -> np.ndarray:
    """Compute which token owns each pixel of an image.

    Args:
        preprocessor: The model's data preprocessor.
        backbone: Its :class:`hook.models.TokenViT`.
        image: (C, H, W) in model units.
        sample: What else the dataset gives; where its ``valid_mask`` is zero, no token is.
        num_tokens: See :func:`tokenize_image`.
        min_region: Smallest connected part of a token that stays, in pixels; 0 keeps all.

    Returns:
        (H, W) int64, -1 where no token is.
    """
    inputs = _model_inputs(preprocessor, image, sample)
    tokenized = _tokenize(backbone, inputs, num_tokens)
    cells = owners_of_cells(tokenized.assignment, backbone.tokenizer, inputs, min_region)
    size = tuple(image.shape[-2:])
    regions = spread_cells(cells[0], backbone.tokenizer, size)
    if sample is not None and "valid_mask" in sample:
        valid = sample.valid_mask.data[0].cpu().numpy() > 0
        regions = np.where(resize_nearest(valid, size), regions, NO_REGION)
    return regions


class _ModelInSight:
    """Finds the model that a metric's images pass through.

    MMEngine gives a metric images and answers, never the model. So this looks at the modules that
    run after it was made, until a backbone with a tokenizer has; then it looks no more. The model
    is not kept alive.
    """

    def __init__(self) -> None:
        self._preprocessor = self._backbone = None
        me = weakref.ref(self)

        def look(module: nn.Module, _) -> None:
            if (seeker := me()) is not None:
                seeker._look(module)

        self._handle = register_module_forward_pre_hook(look)
        weakref.finalize(self, self._handle.remove)

    def _look(self, module: nn.Module) -> None:
        if isinstance(module, BaseDataPreprocessor):
            self._preprocessor = weakref.ref(module)
        elif self._preprocessor is not None and isinstance(
            getattr(module, "tokenizer", None), nn.Module
        ):
            self._backbone = weakref.ref(module)
            self._handle.remove()

    def parts(self) -> tuple[nn.Module, nn.Module]:
        """Give the model's preprocessor and backbone.

        Raises:
            ConfigError: No model with a tokenizer has run.
        """
        backbone = self._backbone and self._backbone()
        preprocessor = self._preprocessor and self._preprocessor()
        if backbone is None or preprocessor is None:
            raise ConfigError(
                "hook.HomogeneityMetric saw no model with a tokenizer",
                expected="a model with hook.TokenViT as its backbone, tested with tools/test.py",
                remedy="take the metric out of test_evaluator and val_evaluator",
            )
        return preprocessor, backbone
