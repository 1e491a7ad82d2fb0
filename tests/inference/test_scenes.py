"""What maps and token regions share: the size of pixels."""

from hook.inference.scenes import scene_resolution


def test_what_has_no_place_has_no_size(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*")
    assert scene_resolution(str(tmp_path / "a.tif")) is None
    assert scene_resolution(str(tmp_path / "none.tif")) is None
