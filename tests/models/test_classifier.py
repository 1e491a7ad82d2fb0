import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData

from hook.errors import ConfigError, DataError
from hook.models import LinearClsHead, TokenClassifier
from hook.structures import ClsDataSample


def build(tokenizer, **head):
    return TokenClassifier(
        backbone=dict(
            type="hook.TokenViT", tokenizer=tokenizer, embed_dims=48, depth=2, num_heads=4
        ),
        head=dict(type="hook.LinearClsHead", num_classes=5, in_channels=48) | head,
        data_preprocessor=dict(type="hook.ClsDataPreProcessor", mean=[0.5] * 3, std=[0.25] * 3),
    )


def samples(*labels):
    return [ClsDataSample(gt_label=label) for label in labels]


def test_three_modes(tokenizer):
    model = build(tokenizer).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(image)
        predicted = model(image, samples(0, 1), mode="predict")
        losses = model(image, samples(0, 1), mode="loss")
    assert logits.shape == (2, 5)
    for logit, sample in zip(logits, predicted, strict=True):
        assert sample.pred_label == int(logit.argmax())
        assert torch.allclose(sample.pred_score, logit.softmax(0), atol=1e-6)
    assert torch.isclose(losses["loss"], F.cross_entropy(logits, torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="mode must be"):
        model(image, mode="none")


def test_predict_without_labels(hook_tokenizer):
    predicted = build(hook_tokenizer).eval()(torch.rand(3, 3, 64, 64), mode="predict")
    assert len(predicted) == 3


def test_train_step_lowers_the_loss(hook_tokenizer):
    from mmengine.optim import OptimWrapper

    model = build(hook_tokenizer).train()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3))
    data = dict(inputs=[torch.rand(3, 64, 64) for _ in range(4)], data_samples=samples(0, 1, 2, 3))
    history = [float(model.train_step(data, wrapper)["loss"].detach()) for _ in range(6)]
    assert history[-1] < history[0]


def test_resized_images_leave_batch_statistics():
    # As predictions do, they use the statistics of images of the training size.
    model = build(dict(type="hook.HookTokenizer", preset="fast", img_size=64, seed_dims=32))
    image, labels = torch.rand(2, 3, 64, 64), samples(0, 1)
    model.train()(image, labels, mode="loss")
    norm = model.backbone.tokenizer.stem.down1.norm
    before = norm.running_mean.clone()
    resized = model(image, labels, mode="loss", resized=True)["loss"]
    assert torch.equal(norm.running_mean, before) and norm.training
    assert torch.isclose(resized, model.eval()(image, labels, mode="loss")["loss"])
    model.train()(image, labels, mode="loss")
    assert not torch.equal(norm.running_mean, before)


def test_pooling():
    tokens = torch.rand(2, 7, 48)
    mean = LinearClsHead(5, 48)
    first = LinearClsHead(5, 48, pooling="cls_token")
    assert torch.allclose(mean(tokens), mean.fc(tokens.mean(1)))
    assert torch.allclose(first(tokens), first.fc(tokens[:, 0]))


def test_loss_options_equal_torchs():
    weight = [1.0, 2.0, 0.5, 1.0, 3.0]
    head = LinearClsHead(5, 48, label_smoothing=0.1, class_weight=weight)
    tokens, labels = torch.rand(4, 7, 48), [0, 1, 4, 2]
    expected = F.cross_entropy(
        head(tokens), torch.tensor(labels), weight=torch.tensor(weight), label_smoothing=0.1
    )
    assert torch.isclose(head.loss(tokens, samples(*labels))["loss"], expected)


def test_topk_accuracy():
    head = LinearClsHead(4, 4, topk=(1, 2, 9))
    torch.nn.init.eye_(head.fc.weight)
    torch.nn.init.zeros_(head.fc.bias)
    tokens = torch.tensor([[[4.0, 3, 2, 1]], [[4.0, 3, 2, 1]], [[1.0, 2, 3, 4]], [[0, 9.0, 1, 2]]])
    losses = head.loss(tokens, samples(0, 1, 2, 0))
    assert losses["accuracy_top-1"] == 25
    assert losses["accuracy_top-2"] == 75
    assert "accuracy_top-9" not in losses


def test_soft_labels_equal_torchs():
    head = LinearClsHead(3, 8)
    tokens = torch.rand(2, 5, 8)
    scores = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.5, 0.5]])
    soft = [ClsDataSample(gt_label=0, gt_score=score) for score in scores]
    losses = head.loss(tokens, soft)
    assert torch.isclose(losses["loss"], F.cross_entropy(head(tokens), scores))
    assert set(losses) == {"loss"}


@pytest.mark.parametrize(
    "options", [dict(pooling="max"), dict(class_weight=[1.0, 2.0])], ids=["pooling", "weights"]
)
def test_bad_head_options(options):
    with pytest.raises(ConfigError):
        LinearClsHead(5, 48, **options)


def test_compiled_classifier_equals_eager(hook_tokenizer):
    import shutil

    if not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        pytest.skip("torch.compile needs a C++ compiler, and this machine has none")
    model = build(hook_tokenizer).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(model.backbone)(image)
        assert torch.allclose(compiled, model.backbone(image), atol=1e-5)


def test_exported_backbone_equals_eager(tokenizer):
    backbone = build(tokenizer).eval().backbone
    image = torch.rand(2, 3, 64, 64)
    program = torch.export.export(backbone, (image,))
    assert torch.allclose(program.module()(image), backbone(image), atol=1e-5)


def test_classes_of_weight_zero_do_not_count():
    head = LinearClsHead(3, in_channels=8, class_weight=[0.0, 1.0, 1.0])
    tokens = torch.randn(2, 4, 8)
    assert head.loss(tokens, [ClsDataSample(gt_label=0)] * 2)["loss"] == 0
    mixed = head.loss(tokens, [ClsDataSample(gt_label=0), ClsDataSample(gt_label=1)])["loss"]
    assert torch.isclose(mixed, head.loss(tokens[1:], [ClsDataSample(gt_label=1)])["loss"])


def test_scores_of_nan_are_never_right():
    head = LinearClsHead(3, in_channels=8)
    losses = head.loss(torch.full((2, 4, 8), float("nan")), [ClsDataSample(gt_label=0)] * 2)
    assert losses["accuracy_top-1"] == 0


# ------------------------------------------------------------------------------------ series
SERIES = dict(type="hook.SpaceTimeTokenizer", patch_size=8, depth=1, num_heads=2)


def series_samples(*dates, **meta):
    return [ClsDataSample(gt_label=0, metainfo=dict(dates=one) | meta) for one in dates]


def test_series_with_missing_dates_and_clouds():
    model = build(SERIES | dict(nan_is_invalid=True)).eval()
    torch.manual_seed(0)
    series = torch.rand(2, 3, 3, 16, 16)
    series[1, 0, :, :8, :8] = torch.nan
    samples = series_samples([0, 10, float("nan")], [0, 10, 20], resolution=10.0)
    data = model.data_preprocessor(dict(inputs=list(series), data_samples=samples))
    predicted = model.predict(data["inputs"], data["data_samples"])
    assert [sample.tokens.num_tokens for sample in predicted] == [8, 11]
    alone = series_samples([0, 10], resolution=10.0)
    two = model.data_preprocessor(dict(inputs=[series[0, :2]], data_samples=alone))
    expected = model.predict(two["inputs"], two["data_samples"])[0].pred_score
    assert torch.allclose(predicted[0].pred_score, expected, atol=1e-6)


def test_masks_of_series():
    model = build(SERIES)
    model.data_preprocessor.mark_invalid = True
    samples = series_samples([0, 10], [0, 10], resolution=10.0)
    mask = torch.ones(2, 16, 16, dtype=torch.uint8)
    mask[1, 8:] = 0
    samples[0].valid_mask = PixelData(data=mask)
    samples[1].valid_mask = PixelData(data=mask[1:])  # of all dates
    predicted = model.eval().predict(torch.rand(2, 2, 3, 16, 16), samples)
    assert [sample.tokens.num_tokens for sample in predicted] == [6, 4]
    assert (predicted[0].tokens.token_map() >= 0).all()


@pytest.mark.parametrize(
    ("images", "meta", "missing"),
    [
        (torch.rand(1, 3, 16, 16), dict(), "without resolution"),
        (torch.rand(1, 2, 3, 16, 16), dict(resolution=10.0), "without dates"),
        (torch.rand(1, 2, 3, 16, 16), dict(), "without resolution and dates"),
        (torch.rand(1, 2, 3, 16, 16), dict(resolution=10.0, dates=[1, 2, 3]), "do not fit"),
    ],
)
def test_missing_facts_are_named(images, meta, missing):
    sample = ClsDataSample(gt_label=0, metainfo=dict(img_path="a.tif") | meta)
    with pytest.raises(DataError, match=missing):
        build(SERIES).predict(images, [sample])


def test_an_image_and_a_series_train_with_the_same_weights():
    from mmengine.optim import OptimWrapper

    torch.manual_seed(0)
    model = build(SERIES).train()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3))
    single = [ClsDataSample(gt_label=k, metainfo=dict(resolution=10.0)) for k in range(4)]
    one = dict(inputs=[torch.rand(3, 16, 16) for _ in single], data_samples=single)
    dated = series_samples(*[[0, 30]] * 4, resolution=10.0)
    two = dict(inputs=[torch.rand(2, 3, 24, 24) for _ in dated], data_samples=dated)
    history = [
        sum(float(model.train_step(data, wrapper)["loss"].detach()) for data in (one, two))
        for _ in range(6)
    ]
    assert history[-1] < history[0]
