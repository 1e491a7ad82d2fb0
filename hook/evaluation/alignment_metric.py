"""Alignment of latents with the features of a frozen network as a metric."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from torch import Tensor

from hook.errors import ConfigError, DataError
from hook.evaluation.alignment import cknna, permuted_cknna, prepare_features
from hook.evaluation.codebook_metric import valid_positions
from hook.evaluation.samples import check_fields
from hook.registry import METRICS, MODELS

CLEAN = "clean"


@METRICS.register_module()
class AlignmentMetric(BaseMetric):
    """CKNNA of latents with the features of a frozen network, and SE-CKNNA.

    A row is one image: the mean over the valid positions of its latents, or of the last map of the
    frozen network. Beside each value stands that of rows in random order (``_permuted``), since
    unrelated features do not have 0.

    SE-CKNNA is the CKNNA of the latents of changed images with the features of the *unchanged*
    images. A test set holds both if it is a ``ConcatDataset`` of the same images, whose pipelines
    have :class:`hook.datasets.transforms.ChangeImage`, which names the change in the metainfo
    ``change``.

    Args:
        frozen: Config of the network in MODELS that maps images (B, C, H, W) to a list of maps,
            such as ``hook.FrozenBackbone``. None: samples have ``features`` (D, h, w) or (D,).
        topk: Number of nearest neighbours.
        data_range: Lowest and highest value of the images, which the network sees in [-1, 1].
        collect_device: As in MMEngine.
        prefix: First part of the metric names.

    Reference:
        See :mod:`hook.evaluation.alignment`.
    """

    default_prefix = "alignment"

    def __init__(
        self,
        frozen: dict | None = None,
        topk: int = 10,
        data_range: tuple[float, float] = (0, 255),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.frozen = None if frozen is None else MODELS.build(frozen).eval()
        self.topk = topk
        self.data_range = data_range

    @torch.no_grad()
    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the rows of one batch.

        Args:
            data_batch: Not used.
            data_samples: :class:`hook.structures.CodecDataSample` objects as dictionaries, with
                ``latents`` (D, h, w), ``image`` or ``features``, and optionally ``valid_mask``,
                ``padded_shape``, ``change``.
        """
        for sample in data_samples:
            check_fields(sample, ("latents",), "hook.AlignmentMetric")
            change = sample.get("change", CLEAN)
            valid = sample.get("valid_mask")
            features = None
            if change == CLEAN:
                features = mean_of_positions(self._features(sample), valid)
            if "token_ids" in sample:  # slots stand at no position
                valid = None
            latents = mean_of_positions(sample["latents"], valid, sample.get("padded_shape"))
            image = sample.get("sample_idx", sample.get("img_path"))
            self.results.append((change, image, latents, features))

    def _features(self, sample: dict) -> Tensor:
        if "features" in sample:
            return sample["features"]
        if self.frozen is None:
            raise ConfigError(
                "hook.AlignmentMetric has no features to compare with",
                expected="samples with features, or a frozen network",
                found=", ".join(sample),
                remedy="set frozen=dict(type='hook.FrozenBackbone')",
            )
        low, high = self.data_range
        image, valid = sample["image"].float(), sample.get("valid_mask")
        if valid is not None and valid.any():  # nodata values would change features around them
            mean = image[:, valid.bool()].mean(dim=1)
            image = image.where(valid.bool(), mean[:, None, None])
        image = (image.nan_to_num() - low) * (2 / (high - low)) - 1
        self.frozen.to(image.device)
        return self.frozen(image[None])[-1][0]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compare the rows of all images.

        Args:
            results: One per image, from :meth:`process`.

        Returns:
            ``cknna``, ``cknna_permuted`` and ``images`` (N); with changed images ``cknna_<change>``
            and ``cknna_<change>_permuted`` for each change.

        Raises:
            DataError: There are fewer images than neighbours, or changed images lack the unchanged.
        """
        rows: dict[str, dict] = {}
        for number, (change, image, latents, features) in enumerate(results):
            if latents is not None:
                key = number if image is None else image
                rows.setdefault(change, {})[key] = latents, features
        clean = rows.pop(CLEAN, {})
        if len(clean) <= max(3, self.topk):
            raise DataError(
                "hook.AlignmentMetric got too few images",
                expected=f"more than {max(3, self.topk)}",
                found=len(clean),
                remedy="evaluate more images, or lower topk",
            )
        metrics: dict[str, float] = {}
        for change, changed in {CLEAN: clean, **rows}.items():
            if changed.keys() - clean.keys():
                raise DataError(
                    f"images changed by {change!r} have no counterpart without a change",
                    expected="both, with equal sample_idx",
                    found=sorted(map(str, changed.keys() - clean.keys()))[:3],
                    remedy="evaluate all changes and the unchanged images in one run",
                )
            pair = [latents for latents, _ in changed.values()], [clean[k][1] for k in changed]
            a, b = (prepare_features(torch.stack(side).double()) for side in pair)
            name = "cknna" if change == CLEAN else f"cknna_{change}"
            metrics[name] = round(cknna(a, b, self.topk), 4)
            metrics[f"{name}_permuted"] = round(permuted_cknna(a, b, self.topk), 4)
        metrics["images"] = len(clean)
        text = f"alignment over {len(clean)} images, {self.topk} neighbours"
        print_log(text, logger=MMLogger.get_current_instance())
        return metrics


def mean_of_positions(
    maps: Tensor, valid: Tensor | None, padded_shape: tuple[int, int] | None = None
) -> Tensor | None:
    """Return the (D,) mean over the valid positions of (D, h, w) maps; None without any.

    See :func:`hook.evaluation.codebook_metric.valid_positions`.
    """
    maps = maps.detach().cpu().float()
    if maps.ndim == 1:
        return maps
    kept = valid_positions(valid, maps.shape[1:], padded_shape)
    if kept is None:
        return maps.mean(dim=(1, 2))
    return maps[:, kept].mean(dim=1) if kept.any() else None
