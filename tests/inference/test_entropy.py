"""Codes packed with the probabilities of a generator: lossless, in pieces, or refused."""

import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch

from hook.apis import decode, encode, load_model
from hook.errors import ConfigError, DataError, SceneError
from hook.inference import entropy, packed
from hook.inference.entropy import EntropyModel, unknown_labels

pytest.importorskip("constriction", reason="the codecs extra is not installed")
OPTIONS = dict(progress=False, window=64)
KINDS = {
    "CodeTransformer": dict(type="VectorQuantizer", codebook_size=16, embed_dims=8),
    "FactorizedTransformer": dict(type="LookupFreeQuantizer", bits=8, factors=(3, 5)),
    "DepthTransformer": dict(type="ResidualQuantizer", codebook_size=16, embed_dims=8, depth=2),
    "FlatTransformer": dict(type="ResidualQuantizer", codebook_size=16, embed_dims=8, depth=2),
}


def read(path):
    with rasterio.open(path) as source:
        return source.read()


@pytest.fixture(scope="module")
def large(tmp_path_factory, rng_image):
    """A scene of 175 x 225 codes with a corner and a hole without data."""
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    values = rng_image(700, 900)
    values[:, :150, :210] = values[:, 401:423, 500:533] = 0
    profile = dict(driver="GTiff", count=2, height=700, width=900, dtype="uint16", nodata=0)
    transform = rasterio.transform.from_origin(300000, 3000000, 0.5, 0.5)
    with rasterio.open(path, "w", crs="EPSG:32645", transform=transform, **profile) as sink:
        sink.write(values)
        sink.descriptions = ("red", "nir")
    return path


@pytest.fixture(scope="module")
def rng_image():
    def image(height, width):
        rng = np.random.default_rng(0)
        truth = np.add.outer(np.arange(height), np.arange(width)) // 17 % 3
        return (truth * 80 + 40 + rng.integers(0, 20, (2, height, width))).astype(np.uint16)

    return image


@pytest.fixture(scope="module")
def coded(large, codec_run, generator_run):
    """The scene as codes: a GeoTIFF, a packed file, and what both decode to."""
    codes, file, scene = (large.with_name(name) for name in ("codes.tif", "codes.hkc", "out.tif"))
    encode(codec_run, large, codes, **OPTIONS)
    report = encode(codec_run, large, file, entropy=generator_run, threads=1, **OPTIONS)
    decode(codes, scene, model=codec_run, **OPTIONS)
    return file, scene, report


def unpack(path, folder, generator, rows=(0, 999), columns=(0, 999)):
    """Codes of a part of a file, and how many blocks that took."""
    with packed.unpacked(path, folder) as (target, blocks):
        count = blocks.use(EntropyModel(load_model(generator)), False)(rows, columns)
        return read(target), count


def test_bytes_are_those_of_the_probabilities(coded):
    file, _, report = coded
    assert report.code_bytes == pytest.approx(report.expected_bytes, rel=0.02)
    assert report.code_bytes > report.expected_bytes > 1000
    assert report.code_bytes < report.size == file.stat().st_size < report.code_bytes + 1500
    text = str(report)
    assert f"codes {report.code_bytes} bytes, {report.expected_bytes:.0f} by" in text
    assert "weights, 0.04 MB, are not in the file" in text


@pytest.mark.parametrize("options", [dict(batch_size=3), dict(threads=2), dict(window=200)])
def test_the_codes_come_back(coded, generator_run, tmp_path, options):
    file, scene, _ = coded
    threads = torch.get_num_threads()
    try:
        decode(file, tmp_path / "out.tif", entropy=generator_run, **OPTIONS | options)
    finally:
        torch.set_num_threads(threads)
    codes, _ = unpack(file, tmp_path, generator_run)
    assert np.array_equal(codes, read(scene.with_name("codes.tif")))
    if "window" not in options:
        assert np.abs(read(tmp_path / "out.tif").astype(int) - read(scene)).max() <= 1


def test_a_fresh_process_gets_the_same_bytes(coded, large, codec_run, generator_run, tmp_path):
    file, scene, _ = coded
    own = ["--entropy", generator_run[0], "--entropy-checkpoint", generator_run[1], "--quiet"]
    for command, out in (
        ("encode", [*codec_run, large, tmp_path / "codes.hkc"]),
        ("decode", [file, tmp_path / "out.tif"]),
    ):
        words = ["-m", "hook.cli", command, *out, "--window", "64", "--threads", "1", *own]
        subprocess.run([sys.executable, *map(str, words)], check=True)
    bytes_of = [path.read_bytes() for path in (file, tmp_path / "codes.hkc")]
    assert bytes_of[0] == bytes_of[1]
    assert np.array_equal(read(tmp_path / "out.tif"), read(scene))


def test_a_part_is_decoded_alone(coded, generator_run, tmp_path, monkeypatch):
    file, scene, _ = coded
    with rasterio.open(scene) as source:
        part = rasterio.windows.Window(530, 310, 70, 40)
        expected = source.read(window=part)
        bounds = rasterio.windows.bounds(part, source.transform)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the last block, which this part does not need
    (copy := tmp_path / "codes.hkc").write_bytes(content)
    calls = []
    own = EntropyModel.unpack
    monkeypatch.setattr(EntropyModel, "unpack", lambda *a: calls.append(1) or own(*a))
    decode(copy, tmp_path / "out.tif", entropy=generator_run, bounds=bounds, **OPTIONS)
    found = read(tmp_path / "out.tif")
    assert np.array_equal(found, expected) and 0 < len(calls) <= 4  # of 12
    with pytest.raises(DataError, match="block 11 .* is damaged"):
        decode(copy, tmp_path / "all.tif", entropy=generator_run, **OPTIONS)
    assert not (tmp_path / "all.tif").exists()


def test_blocks_without_data_take_nothing(coded, generator_run, tmp_path):
    file, _, _ = coded
    _, count = unpack(file, tmp_path, generator_run, (0, 30), (0, 30))
    assert count == 1  # a part of the first block has data
    with packed.unpacked(file, tmp_path) as (_, blocks):
        assert len(blocks.missing((0, 999), (0, 999))) == 12
        assert blocks.missing((64, 128), (65, 66)) == [5]


@pytest.mark.parametrize("condition", ["none", "class"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_network_and_condition(kind, condition, codec_run, tiny, rng, tmp_path):
    text = codec_run[0].read_text()
    head = text.index("quantizer=dict(")
    end = text.index("),\n", head)
    quantizer = ", ".join(f"{key}={value!r}" for key, value in KINDS[kind].items())
    config = tmp_path / "codec.py"
    config.write_text(text[:head] + f"quantizer=dict(_delete_=True, {quantizer}" + text[end:])
    weights = tiny.write_checkpoint(config, tmp_path / "codec.pth")
    run = tiny.write_generator_run(config, weights, tmp_path, condition, kind)
    model = EntropyModel(load_model(run))
    known = rng.random((5, 64)) > 0.3
    codes = np.stack([rng.integers(0, size, (5, 64)) for size in model.sizes], axis=-1)
    codes[~known] = 0
    content, bits = model.pack(codes, known)
    assert np.array_equal(model.unpack(content, known), codes)
    generator = load_model(run)
    labels = unknown_labels(generator.network, 5)
    with torch.no_grad():  # in single precision, where all is known
        lengths = generator.network.code_lengths(torch.from_numpy(codes), labels).numpy()
    full, bits = model.pack(codes, np.ones_like(known))
    assert bits == pytest.approx(lengths.sum() / np.log(2), rel=1e-5)
    assert 8 * len(full) == pytest.approx(bits, rel=0.02)


def test_rounded_logits_cost_little(rng):
    logits = torch.from_numpy(rng.normal(0, 3, (50, 300)))
    weights = entropy._weights(logits)
    assert (weights == np.rint(weights)).all() and weights.min() >= 1
    p, q = logits.softmax(dim=1).numpy(), weights / weights.sum(axis=1, keepdims=True)
    assert 0 <= (p * np.log2(p / q)).sum(axis=1).mean() < 1e-4
    noise = logits * (1 + 1e-13 * torch.randn_like(logits))
    assert np.array_equal(entropy._weights(noise), weights)


def cut(content):
    return content[:-9]


def cut_header(content):
    return content[:40]


@pytest.mark.parametrize("damage", [cut, cut_header])
def test_truncated_files_are_refused(coded, generator_run, tmp_path, damage):
    (copy := tmp_path / "codes.hkc").write_bytes(damage(coded[0].read_bytes()))
    with pytest.raises(DataError, match="not a complete file of packed codes"):
        decode(copy, tmp_path / "out.tif", entropy=generator_run, **OPTIONS)


@pytest.mark.parametrize("size", [1, None])
def test_an_index_with_zeros_is_damage_and_no_block_without_data(
    coded, generator_run, tmp_path, size
):
    content = bytearray(coded[0].read_bytes())
    with packed.unpacked(coded[0], tmp_path) as (_, blocks):
        first = int(blocks.starts[0]) - blocks.index.nbytes
    last = first + size if size else len(content)
    content[first:last] = bytes(last - first)
    (copy := tmp_path / "codes.hkc").write_bytes(content)
    with pytest.raises(DataError, match="index of its blocks is damaged"):
        decode(copy, tmp_path / "out.tif", entropy=generator_run, **OPTIONS)


def test_a_network_that_diverged_packs_nothing(coded, generator_run, codec_run, large, tmp_path):
    generator = load_model(generator_run)
    with torch.no_grad():
        generator.network.heads[0].weight[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="not finite"):
        encode(codec_run, large, tmp_path / "c.hkc", entropy=generator, **OPTIONS)


def test_a_codebook_of_one_code_takes_no_bits():
    weights = entropy._weights(torch.zeros(3, 1))
    assert weights.shape == (3, 2) and (weights[:, 1] == 0).all()


def test_other_probabilities_are_an_error_and_no_pixels(
    coded, generator_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(entropy, "_STEPS", 31)
    with pytest.raises(DataError, match="does not decode to its codes") as caught:
        decode(coded[0], tmp_path / "out.tif", entropy=generator_run, **OPTIONS)
    for word in ("HOOK", f"torch {torch.__version__}", "1 threads", "--threads"):
        assert word in str(caught.value)
    assert not (tmp_path / "out.tif").exists()


def test_other_models_are_refused(coded, large, codec_run, generator_run, tiny, tmp_path):
    file, out = coded[0], tmp_path / "out.tif"
    (folder := tmp_path / "other").mkdir()
    other = tiny.write_generator_run(*codec_run, folder, seed=2)
    with pytest.raises(ConfigError, match="packed with another generator"):
        decode(file, out, entropy=other, **OPTIONS)
    with pytest.raises(ConfigError, match="not a published one") as caught:
        decode(file, out, model=codec_run, **OPTIONS)
    assert "--entropy CONFIG --entropy-checkpoint FILE" in str(caught.value)
    with pytest.raises(ConfigError, match="no generator packed these codes"):
        decode(file.with_name("codes.tif"), out, model=codec_run, entropy=other, **OPTIONS)
    with pytest.raises(ConfigError, match="no probabilities of codes"):
        encode(codec_run, large, tmp_path / "c.hkc", entropy=codec_run, **OPTIONS)
    changed = torch.load(codec_run[1], weights_only=True)
    changed["state_dict"]["decoder.conv_out.bias"] += 1
    torch.save(changed, tmp_path / "codec.pth")
    with pytest.raises(ConfigError, match="codes of another autoencoder"):
        run = codec_run[0], tmp_path / "codec.pth"
        encode(run, large, tmp_path / "c.hkc", entropy=generator_run, **OPTIONS)
    assert not out.exists() and not (tmp_path / "c.hkc").exists()


def test_a_dry_run_foretells_bytes(coded, large, codec_run, generator_run, tmp_path):
    file, scene, report = coded
    options = dict(progress=False, dry_run=True, entropy=generator_run)
    estimate = encode(codec_run, large, tmp_path / "c.hkc", **options)
    assert estimate.disk_bytes == pytest.approx(report.size, rel=0.15)
    estimate = decode(file, tmp_path / "out.tif", **options)
    assert estimate.disk_bytes == pytest.approx(scene.stat().st_size, rel=0.2)
    assert estimate.seconds > 0 and not list(tmp_path.iterdir())


def test_resumed_and_finished_runs(coded, generator_run, large, codec_run, tmp_path):
    file, _, _ = coded
    options = OPTIONS | dict(entropy=generator_run, resume=True, threads=1)
    for again in (False, True):
        report = encode(codec_run, large, tmp_path / "c.hkc", **options)
        assert report.finished_before == again and report.code_bytes
        decoded = decode(file, tmp_path / "out.tif", **options)
        assert decoded.finished_before == again
    with pytest.raises(SceneError):  # the other way of packing is another file
        encode(codec_run, large, tmp_path / "c.hkc", **options | dict(entropy=True))
