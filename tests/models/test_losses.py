import math

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch import losses as smp

from hook.errors import ConfigError
from hook.models import CrossEntropyLoss, DiceLoss, FocalLoss


def logits_and_target():
    logits = torch.randn(2, 3, 8, 8)
    target = torch.randint(3, (2, 8, 8))
    target[:, :2] = 255
    return logits, target


@pytest.mark.parametrize("kind", [CrossEntropyLoss, DiceLoss, FocalLoss])
def test_ignored_pixels_do_not_count(kind):
    logits, target = logits_and_target()
    changed = logits.clone()
    changed[:, :, :2] += 7 * torch.randn(2, 3, 2, 8)
    loss = kind()
    assert torch.isclose(loss(logits, target), loss(changed, target), atol=1e-6)


@pytest.mark.parametrize("kind", [CrossEntropyLoss, DiceLoss, FocalLoss])
def test_a_perfect_answer_costs_nothing(kind):
    target = torch.randint(3, (2, 8, 8))
    perfect = F.one_hot(target, 3).permute(0, 3, 1, 2) * 50.0
    assert kind()(perfect, target) < 1e-4


def test_dice_by_hand():
    """Uniform scores on two equal halves: Dice 2 * 0.25 / (0.5 + 0.5) = 0.5 for each class."""
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[:, :2] = 1
    loss = DiceLoss(smooth=0.0)(torch.zeros(1, 2, 4, 4), target)
    assert math.isclose(float(loss), 0.5, abs_tol=1e-5)


def test_focal_by_hand():
    """Score 0.5 for the true class: (1 - 0.5)^2 * ln 2."""
    loss = FocalLoss(gamma=2.0)(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    assert math.isclose(float(loss), 0.25 * math.log(2), rel_tol=1e-5)


def test_focal_equals_kornias():
    focal_loss = pytest.importorskip("kornia.losses").focal_loss
    logits, _ = logits_and_target()
    target = torch.randint(3, (2, 8, 8))
    weight = torch.tensor([1.0, 2.0, 0.5])
    theirs = focal_loss(logits, target, alpha=None, gamma=2.0, reduction="none", weight=weight)
    ours = FocalLoss(gamma=2.0, class_weight=weight.tolist())(logits, target)
    assert torch.isclose(ours, theirs.sum(1).mean(), rtol=1e-4)


def test_cross_entropy_equals_torchs():
    logits, target = logits_and_target()
    weight = [1.0, 2.0, 0.5]
    ours = CrossEntropyLoss(class_weight=weight, label_smoothing=0.1)(logits, target)
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weight), ignore_index=255, label_smoothing=0.1)
    assert torch.isclose(ours, theirs(logits, target))


@pytest.mark.parametrize("kind", [CrossEntropyLoss, DiceLoss, FocalLoss])
def test_nothing_to_learn_costs_nothing(kind):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = kind()(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("ignored", [255, 0, -1, 7])
def test_dice_is_the_mean_over_the_classes_present(ignored):
    logits = torch.randn(2, 5, 6, 6)
    target = torch.randint(1, 3, (2, 6, 6))  # classes 1 and 2 of 5
    target[0, 0] = ignored
    theirs = [
        smp.DiceLoss("multiclass", classes=[k], smooth=0.5, ignore_index=ignored)(logits, target)
        for k in (1, 2)
    ]
    ours = DiceLoss(smooth=0.5)(logits, target, ignore_index=ignored)
    assert torch.isclose(ours, torch.stack(theirs).mean())


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("scale", [0.5, 20.0, 1e4])
def test_focal_gradients_at_sure_pixels(gamma, scale):
    """Against those in float64 just beside them; the third pixel is ignored."""
    signs = torch.tensor([[1.0, -1.0, 1.0, 0.0], [-1.0, 1.0, -1.0, 0.0]])[None, :, None]
    target = torch.tensor([[[0, 0, 255, 1]]])
    gradients = []
    for logits in (scale * signs, (scale * signs).clamp(-15, 15).double()):
        logits.requires_grad_()
        FocalLoss(gamma).compute(logits, target, 255).backward()
        gradients.append(logits.grad.double())
    ours, exact = gradients
    assert (ours[..., 2] == 0).all()
    torch.testing.assert_close(ours, exact, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", [CrossEntropyLoss, FocalLoss])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_of_weight_zero_do_not_count(kind, smoothing):
    options = {"label_smoothing": smoothing} if kind is CrossEntropyLoss else {}
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = kind(class_weight=[0.0, 1.0, 2.0], **options)(logits, torch.zeros(1, 4, 4).long())
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("weights", [[1.0, -1.0], [math.nan, 1.0], [math.inf, 1.0], [0.0, 0.0]])
def test_weights_that_weight_no_mean_are_refused(weights):
    with pytest.raises(ConfigError, match="class_weight cannot weight a mean"):
        CrossEntropyLoss(class_weight=weights)


@pytest.mark.parametrize("gamma", [-1.0, math.nan])
def test_focal_gamma_is_checked(gamma):
    with pytest.raises(ConfigError, match="gamma is out of range"):
        FocalLoss(gamma)


@pytest.mark.parametrize("kind", [CrossEntropyLoss, FocalLoss])
def test_wrong_number_of_class_weights(kind):
    with pytest.raises(ConfigError, match="class_weight has the wrong length"):
        kind(class_weight=[1.0, 2.0])(*logits_and_target())


def test_weight_and_name():
    logits, target = logits_and_target()
    assert torch.isclose(DiceLoss(loss_weight=3.0)(logits, target), 3 * DiceLoss()(logits, target))
    assert DiceLoss().loss_name == "loss_dice"
    assert FocalLoss(loss_name="loss_rare").loss_name == "loss_rare"


def test_pixel_weights_are_refused():
    logits, target = logits_and_target()
    with pytest.raises(ConfigError, match="does not support pixel weights"):
        DiceLoss()(logits, target, weight=torch.ones(2, 8, 8))
