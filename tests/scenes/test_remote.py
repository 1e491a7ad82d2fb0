"""Scenes on a server, read in ranges through ``/vsicurl/``."""

import http.server
import re
import threading

import numpy as np
import pytest
import rasterio
from rio_cogeo import cog_validate

from hook.apis import decode, encode
from hook.errors import SceneError
from hook.scenes import MapRequest, map_scene
from hook.scenes.codes import SUMS, CodedWindows, CodeGrid, SceneCodes
from hook.scenes.coding import decode_scene, plan_decoding
from hook.scenes.pipeline import Scene
from hook.scenes.request import CodingRequest

rng = np.random.default_rng(0)
SIZE = 640


class RangeServer(http.server.ThreadingHTTPServer):
    """Serves the files of a folder in the ranges asked for, and fails on demand.

    Args:
        folder: The files.
    """

    daemon_threads = True

    def __init__(self, folder) -> None:
        super().__init__(("127.0.0.1", 0), _RangeHandler)
        self.folder = folder
        self.ranges: list[tuple[int, int]] = []
        self.allowed: int | None = None
        """Ranges that are answered before everything fails; None: all."""

    def url(self, name: str) -> str:
        return f"/vsicurl/http://127.0.0.1:{self.server_address[1]}/{name}"


class _RangeHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        server, path = self.server, self.server.folder / self.path.lstrip("/")
        if server.allowed is not None and len(server.ranges) >= server.allowed:
            self._send(500, b"broken", with_body)
            return
        if not path.is_file():
            self._send(404, b"", with_body)
            return
        content = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self._send(200, content, with_body)
            return
        first = int(wanted[1])
        last = min(int(wanted[2] or len(content)), len(content) - 1)
        server.ranges.append((first, last))
        place = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self._send(206, content[first : last + 1], with_body, place)

    def _send(self, status: int, body: bytes, with_body: bool, headers=None) -> None:
        self.send_response(status)
        for key, value in {"Accept-Ranges": "bytes", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    """A server of the test's folder."""
    with RangeServer(tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        # Not what an earlier test has read, no proxy, and no second try after a failure.
        options = {
            "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/http://127.0.0.1",
            "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
            "GDAL_HTTP_MAX_RETRY": 0,
            "GDAL_HTTP_PROXY": "",
            "NO_PROXY": "127.0.0.1",
        }
        with pytest.MonkeyPatch.context() as patch:
            # As environment variables: options of a rasterio.Env were seen to outlive it here.
            for key, value in options.items():
                patch.setenv(key, str(value))
            yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def scene(write_scene):
    # Noise, which no compression makes small: what is read comes in many ranges.
    values = rng.integers(1, 255, (3, SIZE, SIZE)).astype(np.uint8)
    values[:, 100:200, 100:200] = 0
    return write_scene(
        values, nodata=0, tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )


def test_a_map_of_a_served_file_is_that_of_the_file(scene, server, softmax_of_bands, tmp_path):
    names = {"here": str(scene), "there": server.url(scene.name)}
    for folder, path in names.items():
        (tmp_path / folder).mkdir()
        output = tmp_path / folder / "map.tif"
        request = MapRequest(path, output, window=96, scores=("probs",), progress=False)
        map_scene(softmax_of_bands, request, num_classes=3)
    assert len(server.ranges) > 3
    assert max(last - first for first, last in server.ranges) < scene.stat().st_size / 2
    files = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert "map.json" in files and "map.scores.tif" in files
    assert files == sorted(path.name for path in (tmp_path / "there").iterdir())
    for name in files:
        here, there = (tmp_path / folder / name for folder in names)
        assert here.read_bytes() == there.read_bytes(), name


def test_a_part_is_decoded_from_few_bytes_of_served_codes(write_scene, server, tmp_path):
    values = rng.integers(0, 1024, (1, 2000, 1800)).astype(np.uint16)
    codes = SceneCodes(
        "m", "d", (1024,), 4, 8000, 7198, "uint16", None, ("red",), ("Gray",), (1,), (0,)
    )
    tiles = dict(tiled=True, blockxsize=128, blockysize=128, compress="deflate")
    path = write_scene(values, nodata=1024, **tiles)
    with rasterio.open(path, "r+") as target:
        target.update_tags(**codes.tags())
        left, top = target.transform @ (500, 300)
        right, bottom = target.transform @ (525, 330)

    def enlarge(windows, valid):  # a decoder that sees two codes around its own
        pixels = windows[:, :, 2:-2, 2:-2].repeat(4, axis=2).repeat(4, axis=3)
        return CodedWindows(pixels, np.zeros((len(windows), len(SUMS), 1)))

    url, bounds = server.url(path.name), (left, bottom, right, top)
    request = CodingRequest(url, tmp_path / "part.tif", bounds=bounds, progress=False)
    assert SceneCodes.read(url) == codes
    server.ranges.clear()
    decode_scene(enlarge, request, *plan_decoding(request, codes, CodeGrid(4, 2, 2)))
    with rasterio.open(tmp_path / "part.tif") as source:
        expected = values[:, 300:330, 500:525].repeat(4, axis=1).repeat(4, axis=2)
        assert np.array_equal(source.read(), expected)
    sent = sum(last - first + 1 for first, last in server.ranges)
    assert 0 < sent < path.stat().st_size / 8  # most of it for the header and the fingerprint


def test_a_window_of_served_codes_takes_few_requests(
    codec_run, write_scene, server, tmp_path, monkeypatch
):
    monkeypatch.delenv("CPL_VSIL_CURL_NON_CACHED")  # GDAL's cache, as in use
    fields = rng.integers(40, 200, (2, 130, 125)).repeat(16, axis=1).repeat(16, axis=2)
    scene = write_scene((fields + rng.integers(0, 20, fields.shape)).astype(np.uint16))
    codes, options = tmp_path / "codes.tif", dict(progress=False, threads=1)
    encode(codec_run, scene, codes, errors=False, **options)
    valid, faults, remarks = cog_validate(codes, quiet=True)
    assert valid and not faults
    assert ["overviews" in remark for remark in remarks] == [True]  # codes have no mean
    with rasterio.open(server.url(codes.name)) as source:  # what rio info and GDAL tools do
        assert source.shape == (520, 500) and source.tags()["HOOK_STRIDE"] == "4"
        left, top = source.transform @ (300, 200)
        right, bottom = source.transform @ (316, 216)
    decode(codes, tmp_path / "whole.tif", model=codec_run, **options)
    (tmp_path / "served.tif").write_bytes(codes.read_bytes())  # nothing of it was read yet
    server.ranges.clear()
    part, bounds = tmp_path / "part.tif", (left, bottom, right, top)
    decode(server.url("served.tif"), part, model=codec_run, bounds=bounds, window=64, **options)
    with rasterio.open(part) as found, rasterio.open(tmp_path / "whole.tif") as whole:
        window = rasterio.windows.Window(1200, 800, 64, 64)
        assert np.abs(found.read() - whole.read(window=window).astype(int)).max() <= 1  # rounding
    sent = sum(last - first + 1 for first, last in server.ranges)
    assert 0 < len(server.ranges) <= 6 and sent < 0.75 * codes.stat().st_size


def test_a_changed_file_on_the_server_is_another_scene(scene, server):
    path = server.url(scene.name)
    first = Scene((path,)).fingerprint()
    assert Scene((path,)).fingerprint() == first
    with rasterio.open(scene, "r+") as file:
        file.write(255 - file.read())
    assert Scene((path,)).fingerprint() != first


def test_a_server_that_fails_midway_stops_the_run(scene, server, softmax_of_bands, tmp_path):
    path = server.url(scene.name)
    (tmp_path / "out").mkdir()
    begun = []

    def predict(windows, valid):
        # The file is open and its first windows are there when the server breaks.
        begun.append(len(windows))
        server.allowed = 0
        return softmax_of_bands(windows, valid)

    with pytest.raises(SceneError, match=r"scene\.tif: cannot be read at row"):
        output = tmp_path / "out" / "map.tif"
        request = MapRequest(path, output, window=64, batch_size=1, progress=False)
        map_scene(predict, request, num_classes=3)
    assert begun and server.ranges
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_is_not_served_is_named(server, softmax_of_bands, tmp_path):
    with pytest.raises(SceneError, match=r"absent\.tif cannot be read"):
        request = MapRequest(server.url("absent.tif"), tmp_path / "map.tif")
        map_scene(softmax_of_bands, request, num_classes=3)
    assert not list(tmp_path.iterdir())
