"""Layer-wise decay of the learning rate, compared with timm's and mmseg's."""

from uuid import uuid4

import pytest
import timm
import torch
from mmengine.registry import MODELS, init_default_scope
from mmseg.engine.optimizers.layer_decay_optimizer_constructor import get_layer_id_for_vit
from timm.optim import param_groups_layer_decay

from hook.engine.runner import HookRunner
from hook.errors import ConfigError

DEPTH, RATE = 3, 0.7


@pytest.fixture
def model():
    init_default_scope("hook")
    backbone = dict(
        type="hook.TokenViT",
        embed_dims=48,
        depth=DEPTH,
        num_heads=4,
        final_norm=True,
        tokenizer=dict(type="hook.HookTokenizer", img_size=32, seed_dims=32, num_tokens=4),
    )
    head = dict(type="hook.LinearClsHead", in_channels=48, num_classes=3)
    return MODELS.build(dict(type="hook.TokenClassifier", backbone=backbone, head=head))


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Return the parameter groups that a run trains a model with."""

    def build(model, scope="hook", **options):
        monkeypatch.setattr(HookRunner, "build_model", lambda self, given: given)
        optimizer = dict(type="AdamW", lr=0.1, weight_decay=0.05)
        wrapper = dict(type="OptimWrapper", optimizer=optimizer) | options
        options = dict(default_scope=scope, work_dir=str(tmp_path), experiment_name=uuid4().hex)
        runner = HookRunner(model, **options)
        runner.model = model
        return runner.build_optim_wrapper(wrapper).optimizer.param_groups

    return build


MMSEG = "LearningRateDecayOptimizerConstructor"


@pytest.mark.parametrize("scope", ["hook", "mmseg"])
@pytest.mark.parametrize(
    ("constructor", "options"),
    [
        (MMSEG, dict(num_layers=DEPTH, decay_rate=RATE, decay_type="layer_wise")),
        (f"mmseg.{MMSEG}", dict(num_layers=DEPTH, decay_rate=RATE, decay_type="layer_wise_vit")),
        ("LayerDecayOptimizerConstructor", dict(num_layers=DEPTH, layer_decay_rate=RATE)),
        ("LearningRateDecayOptimWrapperConstructor", dict(layer_decay_rate=RATE)),
    ],
)
def test_rates_decay_as_in_mmseg_and_timm(model, groups, scope, constructor, options):
    found = groups(model, scope, constructor=constructor, paramwise_cfg=options)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert sum(len(group["params"]) for group in found) == len(names)
    assert len(found) == 2 * (DEPTH + 2)
    rates = {}
    for group in found:
        for parameter in group["params"]:
            name = names[parameter]
            as_vit = name.replace(".blocks.", ".layers.").replace(".tokenizer.", ".patch_embed.")
            layer = get_layer_id_for_vit(as_vit, DEPTH + 2)
            assert group["lr"] == pytest.approx(0.1 * RATE ** (DEPTH + 1 - layer))
            assert group["weight_decay"] == (0.0 if parameter.ndim == 1 else 0.05)
            rates[name.split(".")[0:3][-1] if "blocks" in name else name.split(".")[1]] = layer
    assert {k: v for k, v in rates.items() if k.isdigit()} == {"0": 1, "1": 2, "2": 3}
    assert rates["tokenizer"] == 0 and rates["norm"] == DEPTH + 1

    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=48, depth=DEPTH, num_heads=4, num_classes=3
    )
    scales = {group["lr_scale"] for group in param_groups_layer_decay(vit, layer_decay=RATE)}
    assert sorted(scales) == pytest.approx(sorted({group["lr_scale"] for group in found}))


def test_further_options_and_frozen_stages(model, groups):
    model.backbone.tokenizer.requires_grad_(False)
    keys = {"head": dict(lr_mult=10.0), "blocks.0": dict(lr_mult=0.5, decay_mult=0.0)}
    options = dict(decay_rate=0.5, custom_keys=keys)
    found = groups(model, constructor=MMSEG, paramwise_cfg=options)
    rates = {p: (group["lr"], group["weight_decay"]) for group in found for p in group["params"]}
    assert rates[model.head.fc.weight] == (1.0, 0.05)
    assert rates[model.backbone.blocks[0].attn.qkv.weight] == pytest.approx((0.1 / 8 / 2, 0.0))
    assert not set(model.backbone.tokenizer.parameters()) & set(rates)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(num_layers=12, decay_rate=0.7), "num_layers=12"),
        (dict(num_layers=DEPTH), "decay_rate=None"),
        (dict(decay_rate=1.5), "decay_rate=1.5"),
        (dict(decay_rate=0.7, decay_type="stage_wise"), "stage_wise"),
    ],
)
def test_bad_options_are_named(model, groups, options, says):
    with pytest.raises(ConfigError, match=says):
        groups(model, constructor=MMSEG, paramwise_cfg=options)


def test_a_backbone_without_layers_is_refused_in_words(groups):
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torch.nn.Linear(2, 2)

    with pytest.raises(ConfigError, match="not supported for this model"):
        groups(
            Plain(), "mmseg", constructor=MMSEG, paramwise_cfg=dict(num_layers=2, decay_rate=0.7)
        )
