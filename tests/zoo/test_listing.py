import functools
import http.server
import threading

import pytest

from hook.apis import load_model
from hook.errors import CheckpointError, ConfigError
from hook.zoo import listing
from hook.zoo.listing import Entry, add_entry, checksum, download_model, find_entry
from hook.zoo.published import TASKS


def entry(path, **changes):
    """The entry of a published file."""
    usual = dict(
        name="tiny-seg", task="segmentation", sha256=checksum(path), size=path.stat().st_size
    )
    return usual | changes


@pytest.fixture
def server(tmp_path):
    """A web server over a folder: its folder and its address."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def test_what_is_listed_is_there():
    """The models of the package: complete, small, and as they were published."""
    for model in listing.list_models():
        assert model.task in TASKS
        assert bool(model.file) != bool(model.url)
        assert model.licence and model.data and model.bands
        assert bool(model.classes) == (model.task in ("classification", "segmentation"))
        if model.file:
            assert model.size == model.place.stat().st_size < 1_000_000
            assert checksum(model.place) == model.sha256
            assert model.metrics and model.measured_on
            meta = load_model(model.name).dataset_meta
            assert tuple(model.classes) == tuple(meta.get("classes", ()))


def test_a_model_of_the_package(seg_model, listing, tmp_path):
    folder = listing(entry(seg_model, file="tiny-seg.safetensors"))
    with pytest.raises(CheckpointError, match="differs from the published one"):
        load_model("tiny-seg")
    (folder / "tiny-seg.safetensors").write_bytes(seg_model.read_bytes())
    assert load_model("tiny-seg").dataset_meta["classes"][0] == "water"
    assert download_model("tiny-seg") == folder / "tiny-seg.safetensors"
    copy = download_model("tiny-seg", tmp_path / "new" / "folder")
    assert copy.read_bytes() == seg_model.read_bytes()
    (folder / "tiny-seg.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="install hook-rs again"):
        load_model("tiny-seg")


def test_a_downloaded_model(seg_model, listing, server, tmp_path):
    folder, address = server
    listing(entry(seg_model, url=f"{address}/tiny.safetensors"))
    with pytest.raises(CheckpointError, match="cannot be downloaded") as caught:
        download_model("tiny-seg", progress=False)
    assert "404" in str(caught.value)
    (folder / "tiny.safetensors").write_bytes(seg_model.read_bytes())
    path = download_model("tiny-seg", progress=False)
    assert path.parent == tmp_path / "home" / "models"
    assert path.read_bytes() == seg_model.read_bytes()
    (folder / "tiny.safetensors").unlink()
    assert load_model("tiny-seg").weights_file == path  # not fetched again


@pytest.mark.parametrize("change", [lambda b: b[:-1] + b"?", lambda b: b[:500], lambda b: b * 3])
def test_a_file_that_arrives_changed_is_not_kept(seg_model, listing, server, tmp_path, change):
    folder, address = server
    listing(entry(seg_model, url=f"{address}/tiny.safetensors"))
    (folder / "tiny.safetensors").write_bytes(change(seg_model.read_bytes()))
    with pytest.raises(CheckpointError, match="wrong checksum"):
        download_model("tiny-seg", progress=False)
    assert not list((tmp_path / "home" / "models").iterdir())


def test_offline(seg_model, listing):
    listing(entry(seg_model, url="http://127.0.0.1:9/tiny.safetensors"))
    with pytest.raises(CheckpointError, match="cannot be downloaded") as caught:
        download_model("tiny-seg", progress=False)
    assert "by other means" in str(caught.value) and "refused" in str(caught.value).lower()


def test_a_folder_that_cannot_be_written(seg_model, listing, tmp_path):
    folder = listing(entry(seg_model, file="tiny-seg.safetensors"))
    (folder / "tiny-seg.safetensors").write_bytes(seg_model.read_bytes())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        download_model("tiny-seg", tmp_path / "file")
    (tmp_path / "tiny-seg.safetensors").write_text("mine")
    with pytest.raises(ConfigError, match="exists already and is not the published file"):
        download_model("tiny-seg", tmp_path)
    assert (tmp_path / "tiny-seg.safetensors").read_text() == "mine"


def test_an_unknown_name_meets_its_neighbour(seg_model, listing):
    listing(entry(seg_model, file="x"))
    with pytest.raises(ConfigError, match="similar: tiny-seg"):
        find_entry("tiny-sge")


def test_an_entry_replaces_one_of_its_name(seg_model, tmp_path):
    path = tmp_path / "models.json"
    for size in (1, 2):
        add_entry(Entry(**entry(seg_model, size=size, file="f")), path)
    add_entry(Entry(**entry(seg_model, name="other", file="g")), path)
    models = listing._read_listing(path)
    assert [(m.name, m.size > 2) for m in models] == [("other", True), ("tiny-seg", False)]


@pytest.mark.parametrize("name", [None, 3, ["a"]])
def test_names_of_the_wrong_type(name):
    for find in (find_entry, download_model):
        with pytest.raises(ConfigError, match="name="):
            find(name)
    with pytest.raises(ConfigError, match="to=3"):
        download_model("hook-fast-tiny_eurosat", to=3)
