"""Data elements that travel between datasets, models and metrics."""

from mmengine.structures import BaseDataElement


class ClsDataSample(BaseDataElement):
    """One image of a scene-classification batch.

    Fields (set by datasets, the classifier, or neither):
        gt_label (int): Index of the true class.
        gt_score (torch.Tensor): (K,) soft target, present after mixup or cutmix.
        pred_label (int): Index of the predicted class.
        pred_score (torch.Tensor): (K,) class probabilities.

    Meta fields: ``img_path``, ``img_shape``, ``ori_shape``, ``sample_idx``.
    """
