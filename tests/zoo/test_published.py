import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hook.apis import SceneMapper, load_model
from hook.checkpoint import load_checkpoint
from hook.errors import CheckpointError, ConfigError
from hook.inference.scenes import MakeFunction
from hook.inference.windows import WindowPredictor
from hook.zoo.published import KEY, read_published, write_published


def rewritten(source, target, change):
    """A copy of a published file whose description was changed."""
    with safe_open(str(source), "pt") as file:
        card = json.loads(file.metadata()[KEY])
    change(card)
    save_file(load_file(source), str(target), metadata={KEY: json.dumps(card)})
    return target


def test_the_file_alone_is_the_model(seg_model, seg_run):
    before, after = load_model(seg_run), load_model(seg_model)
    assert after.dataset_meta["classes"] == ("water", "field", "town")
    assert after.dataset_meta["scale"] == before.dataset_meta["scale"]
    assert all(p.dtype == torch.float32 for p in after.parameters()) and not after.training
    images = {"inputs": [torch.rand(2, 32, 32) * 255]}
    with torch.inference_mode():
        pair = [m.test_step(m.data_preprocessor(dict(images), False)) for m in (before, after)]
    first, second = (p[0].seg_logits.data for p in pair)
    # Half precision keeps eleven bits of a weight.
    assert (first - second).abs().max() < 5e-3 * first.abs().max()


def test_weights_are_stored_in_half_and_statistics_are_not(seg_model):
    stored = load_file(seg_model)
    kinds = {key: value.dtype for key, value in stored.items() if value.is_floating_point()}
    assert all((kind == torch.float32) == (".running_" in key) for key, kind in kinds.items())
    assert any(".running_" in key for key in kinds)


def test_workers_load_it_from_its_file(seg_model):
    mapper = SceneMapper(seg_model)
    assert mapper.checkpoint == seg_model
    # What a worker's process gets, and what it makes of it.
    make = MakeFunction(WindowPredictor, mapper.model.cfg.to_dict(), str(seg_model), {}, 1)
    windows = np.random.default_rng(0).integers(1, 255, (1, 2, 32, 32)).astype(np.uint16)
    valid = np.ones((1, 32, 32), bool)
    np.testing.assert_array_equal(make("cpu")(windows, valid), mapper.function(windows, valid))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(type="os.system"), "model.type"),
        (lambda c: c["model"]["backbone"].update(type="subprocess.Popen"), "backbone.type"),
        (lambda c: c["model"].update(type=["hook.TokenViT"]), "model.type"),
        (lambda c: c["model"]["backbone"].update(init_cfg=dict(checkpoint="/x")), "init_cfg"),
        (lambda c: c.update(custom_imports=dict(imports=["evil"])), "unknown entry"),
        (lambda c: c["model"].update(custom_imports=["evil"]), "custom_imports"),
        (lambda c: c["test_pipeline"].append(dict(type="LoadImageFromFile")), "test_pipeline"),
        (lambda c: c["model"]["backbone"].update(embed_dims=10**9), "out of range"),
        (lambda c: c["model"].update(note="https://example.org/x.pth"), "is a URL"),
        (lambda c: c["dataset_meta"].update(_base_="x"), "dataset_meta"),
        (lambda c: c["dataset_meta"].pop("classes"), "names no classes"),
        (lambda c: c.update(format=99), "its format is unknown"),
        (lambda c: c.update(default_scope="mmdet"), "default_scope"),
    ],
)
def test_what_could_run_code_is_refused(seg_model, tmp_path, change, message):
    path = rewritten(seg_model, tmp_path / "evil.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(path)
    assert "nothing of this one has been run" in str(caught.value)
    assert "is refused" in str(caught.value)


def test_unknown_settings_and_other_weights_end_clearly(seg_model, tmp_path):
    path = tmp_path / "other.safetensors"
    rewritten(seg_model, path, lambda c: c["model"]["backbone"].update(nonsense=1))
    with pytest.raises(ConfigError, match="model of the config cannot be built"):
        load_model(path)
    # The description of a huge model is compared with the file before memory is taken for it.
    rewritten(seg_model, path, lambda c: c["model"]["backbone"].update(embed_dims=65_536))
    with pytest.raises(CheckpointError, match="does not fit the model of the config"):
        load_model(path)


def test_files_that_are_no_model(tmp_path, seg_model):
    weights = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, str(weights))
    with pytest.raises(CheckpointError, match="weights without a description of the model"):
        load_model(weights)
    weights.write_bytes(seg_model.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(weights)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(2)}, str(weights), metadata={KEY: "[" * 100_000})
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_model(weights)


def test_a_checkpoint_or_config_alone_is_told_apart(seg_run):
    with pytest.raises(ConfigError, match="without a checkpoint"):
        load_model(seg_run[0])
    with pytest.raises(ConfigError, match="without its config"):
        load_model(seg_run[1])
    with pytest.raises(ConfigError, match="there is no model 'unknown-model'"):
        load_model("unknown-model")


def test_weights_too_large_for_half_precision_are_not_written(seg_model, tmp_path):
    card = read_published(seg_model)
    path = tmp_path / "large.safetensors"
    with pytest.raises(CheckpointError, match="does not fit into half precision"):
        write_published(path, card, {"a": torch.tensor([1e6])}, half=True)
    assert not list(tmp_path.iterdir())


def test_the_weights_serve_a_config_too(seg_model, seg_run):
    assert load_checkpoint(seg_model)["meta"]["dataset_meta"]["classes"][2] == "town"
    model = load_model((seg_run[0], seg_model))
    np.testing.assert_allclose(
        next(model.parameters()).detach(), next(load_model(seg_model).parameters()).detach()
    )


def test_a_path_of_the_wrong_type():
    with pytest.raises(ConfigError, match="path=None"):
        read_published(None)


def test_an_autoencoder_without_what_only_trains_it(codec_model, codec_run):
    card = read_published(codec_model)
    assert card.task == "reconstruction" and "classes" not in card.dataset_meta
    assert not {"losses", "discriminator", "frozen"} & card.model.keys()
    before, after = load_model(codec_run), load_model(codec_model)
    images = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        codes = before.encode(images).indices
        # Half precision moves few latents across a border of codes.
        assert (codes == after.encode(images).indices).float().mean() > 0.9
        pair = [m.decode(m.quantizer.decode(codes), grid=(8, 8)) for m in (before, after)]
    assert (pair[0] - pair[1]).abs().max() < 5e-3 * pair[0].abs().max()
