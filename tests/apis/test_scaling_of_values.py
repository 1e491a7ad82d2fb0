"""A pixel's value alone decides what the model sees of it, not the pixels around it."""

import numpy as np
import pytest
import torch

from hook.apis import SceneMapper, load_model
from hook.inference.windows import WindowPredictor

# Window of the tiny models; the dark one of a scene lies in its second row and second column.
SIDES = {"seg": 32, "cls": 16}
ROW, COLUMN = 1, 1
# The dark window's own maximum, far below what the type can hold, and next to nothing.
DARK = [3, 40]


@pytest.fixture(params=["seg", "cls"])
def model(request, seg_run, cls_run):
    """A segmentation of two bands with a scale, or a classifier of three without one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_model(seg_run if request.param == "seg" else cls_run)
    torch.set_num_threads(threads)


@pytest.fixture
def seen(model):
    """Inputs (C, h, w) of the backbone, with all scaling behind them, in order."""
    inputs = []
    handle = model.backbone.register_forward_pre_hook(
        lambda module, arguments: inputs.extend(arguments[0].detach().clone())
    )
    yield inputs
    handle.remove()


def dark_and_bright(model, dtype, highest):
    """A dark window, and a scene of 2 x 3 windows that is bright around it."""
    bands = len(model.dataset_meta["bands"])
    side = SIDES["seg" if bands == 2 else "cls"]
    rng = np.random.default_rng(0)
    dark = rng.integers(0, highest + 1, (bands, side, side)).astype(dtype)
    dark[:, 0, 0] = highest
    limit = np.iinfo(dtype).max
    scene = rng.integers(limit // 2, limit + 1, (bands, 2 * side, 3 * side)).astype(dtype)
    scene[:, -1, -1] = limit
    rows, columns = (slice(k * side, (k + 1) * side) for k in (ROW, COLUMN))
    scene[:, rows, columns] = dark
    return dark, scene, ROW * 3 + COLUMN


@pytest.mark.parametrize("highest", DARK)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_dark_window_is_scaled_as_it_is_alone(model, seen, write_scene, tmp_path, dtype, highest):
    dark, bright, place = dark_and_bright(model, dtype, highest)
    mapper = SceneMapper(model)
    for name, values in (("dark", dark), ("bright", bright)):
        scene = write_scene(values, f"{name}.tif")
        mapper.map(scene, tmp_path / f"{name}_map.tif", overlap=0, batch_size=1, progress=False)
    assert len(seen) == 1 + 6
    alone, within = seen[0], seen[1 + place]
    assert torch.equal(alone, within)
    # And it is the window: what the model's own numbers make of its values.
    meta, preprocessor = model.dataset_meta, model.data_preprocessor
    units = torch.from_numpy(dark.astype(np.float32)) * meta.get("scale", 1)
    expected = (units - preprocessor.mean) / preprocessor.std
    torch.testing.assert_close(alone, expected)
    assert alone.std() > 0
    others = [k for k in range(6) if k != place]
    assert all(seen[1 + k].min() > alone.max() for k in others)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_array_is_scaled_as_its_file(model, seen, write_scene, tmp_path, dtype):
    dark, bright, place = dark_and_bright(model, dtype, 3)
    mapper = SceneMapper(model)
    options = dict(overlap=0, batch_size=1, progress=False)
    mapper.map(write_scene(bright), tmp_path / "file.tif", **options)
    mapper.map(bright, tmp_path / "array.tif", **options)
    mapper.map(dark, tmp_path / "dark.tif", **options)
    assert len(seen) == 6 + 6 + 1
    for first, second in zip(seen[:6], seen[6:12], strict=True):
        assert torch.equal(first, second)
    assert torch.equal(seen[-1], seen[place])


def test_the_type_of_a_file_does_not_matter(model, seen):
    """Nor does what else is in a batch: as eight bits, as sixteen, and beside the brightest."""
    dark, _, _ = dark_and_bright(model, np.uint8, 3)
    predict, wide = WindowPredictor(model), dark.astype(np.uint16)
    valid = np.ones((2, *dark.shape[1:]), bool)
    for pair in ((dark, dark), (wide, wide), (wide, np.full_like(wide, 65535))):
        predict(np.stack(pair), valid)
    assert len(seen) == 6
    for other in seen[1:5]:
        assert torch.equal(other, seen[0])
    assert not torch.equal(seen[5], seen[0])
