import pytest
import torch

# One table of tolerances (absolute, relative) per dtype, against float64.
TOLERANCES = {
    torch.float32: (1e-5, 1e-4),
    torch.bfloat16: (0.15, 0.1),
}


@pytest.fixture
def tolerances():
    return TOLERANCES


@pytest.fixture(scope="session")
def has_compiler() -> bool:
    import shutil

    return any(shutil.which(name) for name in ("g++", "c++", "clang++"))


@pytest.fixture
def compiles(has_compiler):
    """Skip where torch.compile has no C++ compiler to call."""
    if not has_compiler:
        pytest.skip("torch.compile needs a C++ compiler, and this machine has none")
