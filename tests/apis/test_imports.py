"""What importing a name of hook.apis loads, beside Python and NumPy."""

import functools
import subprocess
import sys

import pytest

from hook import apis

# Packages that take a tenth of a second or more to load.
HEAVY = """
    albumentations cv2 dask distributed geopandas huggingface_hub matplotlib mmcv mmengine
    mmengine.dataset mmengine.hooks mmengine.model mmengine.runner mmseg mmseg.datasets onnx pandas
    PIL pyarrow pyogrio rasterio requests scipy segmentation_models_pytorch shapely skimage sklearn
    sympy timm torch torchgeo torchgeo.datasets torchvision xarray
""".split()

NOTHING = set()
TABLES = {"geopandas", "pandas", "pyarrow", "pyogrio", "rasterio", "shapely"}
MODELS = {"mmengine", "rasterio", "torch"}
TRAINING = {"PIL", "cv2", "mmcv", "mmengine.dataset", "mmengine.hooks", "mmengine.model"}
TRAINING |= {"mmengine.runner", "sympy"}
MAY_LOAD = {
    "Classifier": MODELS | TABLES,
    "Prediction": MODELS,
    "RegionExtractor": MODELS | TABLES,
    "RegionIndex": TABLES,
    "SceneMapper": MODELS | TABLES,
    "TrainingResult": MODELS | TABLES | TRAINING,
    "class_statistics": TABLES,
    "classify_regions": TABLES,
    "decode": MODELS | TABLES,
    "download_model": NOTHING,
    "embed_chip": TABLES,
    "encode": MODELS | TABLES,
    "export_onnx": MODELS,
    "find_similar": TABLES,
    "list_models": NOTHING,
    "generate": MODELS | TABLES,
    "load_model": MODELS,
    "predict_files": MODELS,
    "pretrain": MODELS | TABLES | TRAINING,
    "show_attention": MODELS,
    "show_map": TABLES,
    "show_scene": TABLES,
    "show_token_counts": MODELS,
    "show_tokens": MODELS,
    "style_map": TABLES,
    "surprise_map": MODELS | TABLES,
    "tokenize": MODELS,
    "train": MODELS | TABLES | TRAINING,
    "vectorize_map": TABLES,
}


@functools.cache
def loaded(code: str) -> set[str]:
    code = f"import sys; {code}; print(*[name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(run.stdout.split())


def test_every_name_has_a_list():
    assert sorted(MAY_LOAD) == apis.__all__


@pytest.mark.parametrize("name", sorted(MAY_LOAD))
def test_a_name_loads_only_what_it_needs(name):
    # Names of one module load the same.
    first = next(one for one, module in apis._MODULES.items() if module == apis._MODULES[name])
    assert loaded(f"from hook.apis import {first}") <= MAY_LOAD[name]


@pytest.mark.parametrize(
    "code", ["import hook", "import hook.apis", "from hook.cli import build_parser; build_parser()"]
)
def test_the_package_and_the_help_of_the_command_are_light(code):
    assert loaded(code) == set()


@pytest.mark.parametrize("name", ["outline_tokens", "render_labels", "stretch_to_rgb"])
def test_names_that_moved_still_work(name):
    from hook.visualization import drawing

    with pytest.warns(DeprecationWarning, match=f"use hook.visualization.drawing.{name}"):
        assert getattr(apis, name) is getattr(drawing, name)
