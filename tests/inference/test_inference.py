"""Models from checkpoints, single images to predictions, images to tokens."""

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from hook.apis import (
    Classifier,
    RegionExtractor,
    SceneMapper,
    export_onnx,
    load_model,
    predict_files,
    show_tokens,
    tokenize,
)
from hook.engine.configs import load_config
from hook.errors import CheckpointError, ConfigError, DataError
from hook.inference.windows import WindowPredictor
from hook.models import TokenViT
from hook.tokenizers import HookTokenizer


def _by_hand(tiny, model, path):
    """Softmax of a scene's top-left 32 pixels, from rasterio's read and the model alone."""
    with rasterio.open(path) as source:
        image = source.read([2, 1]).astype(np.float32)  # red, nir
        valid = source.dataset_mask() > 0
    units = np.where(valid, image * np.float32(0.01), np.float32(1.3))[:, :32, :32]
    inputs = (torch.from_numpy(units)[None] - 1.3) / 0.7
    size = (32, 32)
    with torch.no_grad():
        logits = model.inference(inputs, [dict(ori_shape=size, img_shape=size, pad_shape=size)])
    return logits.softmax(1)[0].numpy(), valid[:32, :32]


@pytest.fixture
def chip(scenes, tmp_path):
    """The first scene's top-left 32 x 32 pixels, with its nodata corner, as a file."""
    with rasterio.open(scenes / "images" / "first.tif") as source:
        window = rasterio.windows.Window(0, 0, 32, 32)
        profile = source.profile | {"height": 32, "width": 32}
        path = tmp_path / "chip.tif"
        with rasterio.open(path, "w", **profile) as sink:
            sink.write(source.read(window=window))
            sink.descriptions = source.descriptions
    return path


def test_load_model(cls_run, seg_run):
    model = load_model(cls_run)
    assert not model.training
    assert model.dataset_meta["classes"] == ("dark", "light", "noisy")
    assert model.cfg.model.type == "hook.TokenClassifier"
    model = load_model(seg_run)
    assert not any(module.training for module in model.modules())
    assert model.dataset_meta["bands"] == ("red", "nir")


def test_dataset_meta_falls_back_on_the_config(seg_run, tmp_path):
    config, checkpoint = seg_run
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content["state_dict"], tmp_path / "bare.pth")
    model = load_model((config, tmp_path / "bare.pth"))
    assert tuple(model.dataset_meta["classes"]) == ("water", "field", "town")
    content["meta"]["dataset_meta"]["classes"] = ("a", "b")
    torch.save(content, tmp_path / "two.pth")
    with pytest.raises(ConfigError, match="different numbers of classes"):
        load_model((config, tmp_path / "two.pth"))


@pytest.mark.parametrize("metainfo", [7, {"bands": [{}]}, {"bands": 3}, {"classes": 2}])
def test_wrong_metainfo_of_the_config_is_named(seg_run, tmp_path, metainfo):
    config, checkpoint = load_config(seg_run[0]), torch.load(seg_run[1], weights_only=True)
    config.test_dataloader = dict(dataset=dict(metainfo=metainfo))
    if "classes" in str(metainfo):
        del checkpoint["meta"]["dataset_meta"]
    torch.save(checkpoint, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="metainfo of the config"):
        load_model((config, tmp_path / "a.pth"))


def test_segmentation_of_a_file(tiny, seg_run, chip, tmp_path):
    model = load_model(seg_run)
    expected, valid = _by_hand(tiny, model, chip)
    (prediction,) = predict_files(model, [chip])
    wanted = np.where(valid, expected.argmax(0), 255)
    assert (prediction.mask == 255).sum() == 64
    # Classes may differ where two have the same score up to rounding.
    top = np.sort(expected, axis=0)
    clear = ~valid | (top[-1] - top[-2] > 1e-4)
    assert clear.mean() > 0.9
    assert np.array_equal(prediction.mask[clear], wanted[clear])

    out = tmp_path / "mask.tif"
    (written,) = predict_files(seg_run, [chip], out)
    assert written.output == str(out)
    with rasterio.open(out) as result, rasterio.open(chip) as image:
        assert np.array_equal(result.read(1), prediction.mask)
        assert (result.crs, result.transform) == (image.crs, image.transform)
        assert result.nodata == 255
        assert result.colormap(1)[1] == (0, 200, 0, 255)
    with pytest.raises(ConfigError, match="exists already"):
        predict_files(model, [chip], out)
    predict_files(model, [chip], out, overwrite=True)


@pytest.mark.parametrize("loaded", [False, True])
def test_config_and_checkpoint_as_two_arguments_are_deprecated(seg_run, chip, tmp_path, loaded):
    old = (load_model(seg_run), None) if loaded else seg_run
    with pytest.warns(DeprecationWarning, match="as one argument") as warned:
        (found,) = predict_files(*old, [chip], tmp_path / "mask.tif")
    assert warned[0].filename == __file__
    assert found.output == str(tmp_path / "mask.tif")


def test_classification_of_files_does_not_depend_on_the_batch(cls_run, tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 2, (16, 16, 3), dtype=np.uint8)).save(path)
        files.append(path)
    model = load_model(cls_run)
    single = predict_files(model, files, batch_size=1)
    many = predict_files(model, files, tmp_path / "out.csv", batch_size=3)
    for path, one, other in zip(files, single, many, strict=True):
        image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float()
        with torch.no_grad():
            expected = model((image[None] - 0.5) / 0.3, mode="tensor").softmax(1)[0].numpy()
        assert one.file == other.file == str(path)
        assert np.allclose(one.scores, expected, atol=1e-6)
        assert np.allclose(one.scores, other.scores, atol=1e-6)
        assert one.label == model.dataset_meta["classes"][expected.argmax()]
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 6


def test_tta_is_off_again_afterwards(cls_run, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "x.png"
    Image.fromarray(rng.integers(0, 9, (16, 16, 3), dtype=np.uint8)).save(path)
    model = load_model(cls_run)
    plain = predict_files(model, [path])[0].scores
    averaged = predict_files(model, [path], tta=True)[0].scores
    assert not np.allclose(plain, averaged, atol=1e-6)
    assert np.array_equal(plain, predict_files(model, [path])[0].scores)


def test_bad_input(cls_run, seg_run, chip, tmp_path):
    model = load_model(seg_run)
    with pytest.raises(DataError, match="none.tif does not exist"):
        predict_files(model, [tmp_path / "none.tif"])
    with pytest.raises(DataError, match="is a folder"):
        predict_files(model, [tmp_path])
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(DataError, match="text.tif cannot be read"):
        predict_files(model, [tmp_path / "text.tif"])
    Image.new("RGB", (32, 32)).save(tmp_path / "three.png")
    with pytest.raises(DataError, match=r"three\.png") as caught:
        predict_files(model, [tmp_path / "three.png"])
    assert "red, nir" in str(caught.value)
    Image.new("RGB", (20, 3)).save(tmp_path / "wide.png")
    with pytest.raises(DataError, match="does not fit the model") as caught:
        predict_files(cls_run, [tmp_path / "wide.png"])
    assert "3 x 20" in str(caught.value)
    with pytest.raises(ConfigError, match="a folder"):
        predict_files(model, [chip, chip], tmp_path / "one.tif")
    with pytest.raises(ConfigError, match="is an input"):
        predict_files(model, [chip], chip, overwrite=True)
    (tmp_path / "mask.tif").symlink_to(chip)
    for given, out in (([f"vrt://{chip}?bands=1,2"], chip), ([chip], tmp_path / "mask.tif")):
        with pytest.raises((ConfigError, DataError), match="is an input|does not exist"):
            predict_files(model, given, out, overwrite=True)
    with pytest.raises(ConfigError, match="File name too long"):
        predict_files(model, [chip], tmp_path / f"{'n' * 300}.tif")
    with pytest.raises(ConfigError, match="two images"):
        other = tmp_path / "other" / chip.name
        other.parent.mkdir()
        other.write_bytes(chip.read_bytes())
        predict_files(model, [chip, other], tmp_path / "out")
    with pytest.raises(ConfigError, match="CSV"):
        predict_files(cls_run, [tmp_path / "wide.png"], tmp_path / "out.tif")
    with pytest.raises(CheckpointError, match="does not fit the model of the config"):
        load_model((seg_run[0], cls_run[1]))
    with pytest.raises(ConfigError, match="without a checkpoint"):
        predict_files(seg_run[0], [chip])
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there(cls_run, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="device cuda"):
        load_model(cls_run, device="cuda")


def test_tokenize_a_file_and_an_array(seg_run, chip):
    model = load_model(seg_run)
    output = tokenize(model, chip)
    assert output.tokens.shape == (1, 4, 16)
    assert output.assignment.shape == (1, 4, 8, 8)
    with rasterio.open(chip) as source:
        image, valid = source.read([2, 1]), source.dataset_mask()
    from_array = tokenize(model, image, valid)
    assert torch.allclose(output.tokens, from_array.tokens, atol=1e-6)
    assert torch.allclose(output.assignment, from_array.assignment, atol=1e-6)
    with pytest.raises(DataError, match="does not fit"):
        tokenize(model, image[:, :3])


def test_imports_are_light(repo):
    import subprocess
    import sys

    code = (
        "import sys, hook.apis, hook.cli;"
        "print(sorted(m for m in ('torch', 'mmengine', 'rasterio', 'numpy') if m in sys.modules));"
        "print('SceneMapper' in dir(hook.apis))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "True"]


def test_images_of_another_size_are_taken(seg_run, chip):
    model = load_model(seg_run)
    with rasterio.open(chip) as source:
        image, valid = source.read([2, 1]), source.dataset_mask()
    output = tokenize(model, image[:, :16, :24], valid[:16, :24])
    assert output.assignment.shape == (1, 4, 4, 6)


def test_number_of_tokens_is_chosen_for_a_call(cls_run, seg_run, chip, tmp_path):
    model = load_model(seg_run)
    usual = model.backbone.tokenizer.num_tokens
    assert tokenize(model, chip, num_tokens=2).tokens.shape[1] == 2
    assert tokenize(model, chip).tokens.shape[1] == usual
    whole = predict_files(model, [chip])[0].mask
    same = predict_files(model, [chip], num_tokens=usual)[0].mask
    assert np.array_equal(whole, same)
    assert model.backbone.tokenizer.num_tokens == usual
    for count in (0, usual + 1):
        with pytest.raises(ConfigError, match=f"1 to {usual} tokens"):
            predict_files(model, [chip], num_tokens=count)


def test_pixels_that_are_not_valid_reach_the_tokenizer_as_such(seg_run, chip):
    """With a model that marks them, values under the nodata corner change no token."""
    model = load_model(seg_run)
    model.backbone.tokenizer = HookTokenizer("fast", in_channels=2, embed_dims=16).eval()
    model.data_preprocessor.mark_invalid = True
    with rasterio.open(chip) as source:
        image, valid = source.read([2, 1]).astype(np.float32), source.dataset_mask() > 0
    assert not valid.all()
    file, array = tokenize(model, chip), tokenize(model, image, valid)
    assert torch.allclose(file.tokens, array.tokens, atol=1e-6)
    other = tokenize(model, np.where(valid, image, 7), valid)
    assert torch.equal(other.tokens, array.tokens)
    seen = torch.from_numpy(valid).float()[None]
    empty = torch.nn.functional.max_pool2d(seen, 4)[0] == 0
    assert (array.assignment[0].sum(0)[empty] == 0).all()
    scores = WindowPredictor(model)(image[None], valid[None])
    assert np.isfinite(scores).all()
    assert np.array_equal(
        scores, WindowPredictor(model)(np.where(valid, image, 7)[None], valid[None])
    )


# ------------------------------------------------------------------------- arguments of wrong types
@pytest.mark.parametrize("name", [None, 3, ["a"]])
def test_what_is_no_model(name, chip):
    with pytest.raises(ConfigError, match="model="):
        load_model(name)
    with pytest.raises(ConfigError, match="model="):
        load_model((name, "a.pth"))
    with pytest.raises(ConfigError, match="model="):
        tokenize(name, chip)


def test_a_device_that_is_none(seg_run):
    with pytest.raises(ConfigError, match="device"):
        load_model(seg_run, device=["cpu"])
    with pytest.raises(ConfigError, match="checkpoint=3"):
        load_model((seg_run[0], 3))


@pytest.fixture(scope="module")
def seg(seg_run):
    return load_model(seg_run)


@pytest.mark.parametrize("number", ["a", 2.5, True, [2]])
def test_numbers_of_tokens_of_the_wrong_type(seg, chip, number):
    for use in (
        lambda: tokenize(seg, chip, num_tokens=number),
        lambda: predict_files(seg, [chip], num_tokens=number),
    ):
        with pytest.raises(ConfigError, match="num_tokens="):
            use()
    assert seg.backbone.tokenizer.num_tokens == 4


def test_any_number_of_regions(seg, chip, caplog):
    """Regions of the preset objects are not limited by the number of training."""
    trained = seg.backbone
    options = dict(preset="objects", img_size=32, in_channels=2, num_tokens=4, seed_dims=16)
    seg.backbone = TokenViT(
        dict(type="hook.HookTokenizer", **options), embed_dims=32, depth=1, num_heads=2
    ).eval()
    try:
        assert len(tokenize(seg, chip, num_tokens=40).token_map((32, 32)).unique()) == 40
        assert "was trained with" not in caplog.text
        with pytest.raises(ConfigError, match="no queries") as caught:
            tokenize(seg, chip, num_tokens=0)
        assert caught.value.expected == "1 token or more"
    finally:
        seg.backbone = trained


@pytest.mark.parametrize(
    ("image", "valid", "says"),
    [
        (np.zeros((32, 32)), None, "does not fit the model"),
        (np.zeros((3, 32, 32)), None, "does not fit the model"),
        (np.full((2, 32, 32), "a"), None, "does not fit the model"),
        ([[1, 2], [3]], None, "does not fit the model"),
        (None, None, "does not fit the model"),
        (np.zeros((2, 32, 32)), np.ones((5, 5)), "valid"),
        (np.zeros((2, 32, 32)), np.ones((1, 32)), "valid"),
        (np.zeros((2, 32, 32)), "x", "valid"),
    ],
)
def test_arrays_that_are_no_image_of_the_model(seg, image, valid, says):
    with pytest.raises(DataError, match=says):
        tokenize(seg, image, valid)


def test_tokens_of_a_file_with_a_validity_beside_it(seg, chip):
    with pytest.raises(ConfigError, match="valid is for NumPy arrays only"):
        tokenize(seg, chip, np.ones((32, 32)))


@pytest.mark.parametrize(
    "options",
    [
        dict(files=None),
        dict(files="a.tif"),
        dict(files=[3]),
        dict(batch_size="x"),
        dict(batch_size=0),
        dict(tta="x"),
        dict(out=3),
    ],
)
def test_wrong_options_of_predictions(seg, chip, options):
    arguments = dict(files=[chip]) | options
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        predict_files(seg, **arguments)


# ------------------------------------------------------------------------- what stands for a model
def test_a_model_is_one_argument(seg_run, seg_model, chip):
    """A loaded model, a published file and a pair are taken alike."""
    model = load_model(seg_run)
    assert load_model(model) is model
    expected = predict_files(model, [chip])[0].mask
    read = load_config(seg_run[0])
    for same in (seg_run, list(seg_run), (read, seg_run[1])):
        assert np.array_equal(predict_files(same, [chip])[0].mask, expected)
        assert torch.equal(tokenize(same, chip).tokens, tokenize(model, chip).tokens)
    assert predict_files(seg_model, [chip])[0].mask.shape == expected.shape
    with pytest.raises(ConfigError, match="model="):
        load_model(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="model="):
        load_model((model, seg_run[1]))


@pytest.mark.parametrize("kind", [load_model, SceneMapper, RegionExtractor, Classifier])
def test_a_config_and_a_checkpoint_as_two_arguments(kind, seg_run, cls_run):
    pair = cls_run if kind is Classifier else seg_run
    with pytest.warns(
        DeprecationWarning, match=r"one argument, the pair \(config, checkpoint\)"
    ) as caught:
        old = kind(*pair)
    assert caught[0].filename == __file__
    new = kind(pair)
    old, new = (found if kind is load_model else found.model for found in (old, new))
    for before, after in zip(old.parameters(), new.parameters(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, scene, folder: SceneMapper(model),
        lambda model, scene, folder: Classifier(model, num_tokens=2),
        lambda model, scene, folder: RegionExtractor(model),
        lambda model, scene, folder: predict_files(model, [scene], folder),
        lambda model, scene, folder: tokenize(model, scene),
        lambda model, scene, folder: show_tokens(model, scene),
        lambda model, scene, folder: export_onnx(model, folder / "model.onnx"),
    ],
)
def test_an_autoencoder_is_not_taken_for_another_model(codec_run, scenes, tmp_path, call):
    with pytest.raises(ConfigError, match="TileAutoencoder has no (classes|tokens)"):
        call(codec_run, scenes / "images" / "first.tif", tmp_path)
    assert not list(tmp_path.iterdir())
