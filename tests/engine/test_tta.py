"""Test-time augmentation: views and their inverses, means of segmentation and classification."""

import pytest
import torch

from hook.engine.tta import apply_view, mean_over_views, undo_view, views
from hook.inference.models import load_model


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 4, 6)])
def test_views_are_distinct_and_undone(shape):
    x = torch.rand(shape)
    square = shape[-1] == shape[-2]
    seen = [apply_view(x, view) for view in views(square)]
    assert len(seen) == (8 if square else 4)
    for i, view in enumerate(views(square)):
        assert torch.equal(undo_view(seen[i], view), x)
        assert all(not torch.equal(seen[i], other) for other in seen[:i])
        assert square or seen[i].shape == x.shape


def test_a_pixelwise_function_is_unchanged():
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    assert torch.allclose(mean_over_views(torch.sigmoid, x), torch.sigmoid(x))


def test_the_mean_does_not_depend_on_the_image_orientation():
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 2, 3, padding=1).double()
    x = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        direct = mean_over_views(convolution, x)
        turned = mean_over_views(convolution, torch.rot90(x, 1, (-2, -1)))
    assert torch.allclose(torch.rot90(direct, 1, (-2, -1)), turned)
    assert not torch.allclose(direct, convolution(x))


def test_segmentation_gives_the_mean_of_softmaxes(seg_run):
    from mmseg.structures import SegDataSample

    model = load_model(seg_run)
    image = torch.rand(2, 32, 32)

    def batch():
        size = (32, 32)
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
        return {"inputs": [image], "data_samples": [SegDataSample(metainfo=meta)]}

    with torch.no_grad():
        inputs = model.data_preprocessor(batch(), False)["inputs"]
        metas = [batch()["data_samples"][0].metainfo]
        total = 0
        for flip in (False, True):
            for k in range(4):
                view = torch.rot90(inputs.flip(3) if flip else inputs, k, (2, 3))
                scores = torch.rot90(model.inference(view, metas).softmax(1), -k, (2, 3))
                total = total + (scores.flip(3) if flip else scores)
        expected = total[0] / 8
        model.test_cfg["tta"] = "d4"
        result = model.test_step(batch())[0]
    assert torch.allclose(result.seg_logits.data.softmax(0), expected, atol=1e-5)
    assert torch.equal(result.pred_sem_seg.data[0], expected.argmax(0))


def test_classification_gives_the_mean_of_scores(cls_run):
    from hook.structures import ClsDataSample

    model = load_model(cls_run)
    image = torch.rand(3, 16, 16)
    model.test_cfg["tta"] = "d4"
    with torch.no_grad():
        scores = [
            model.test_step({"inputs": [view], "data_samples": [ClsDataSample()]})[0]
            for view in (image, image.flip(2), torch.rot90(image, 1, (1, 2)))
        ]
    for other in scores[1:]:
        assert torch.allclose(scores[0].pred_score, other.pred_score, atol=1e-5)
    assert scores[0].pred_label == int(scores[0].pred_score.argmax())
