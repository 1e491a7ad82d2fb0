"""Where the configs that come with HOOK are."""

import difflib
import os
from pathlib import Path

from hook.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]


def config_root() -> Path:
    """Return the folder of the configs: beside the package, or inside an installed one.

    An installation has them where OpenMMLab's packages do, see ``setup.py``.
    """
    beside = _PACKAGE.parent / "configs"
    return beside if (beside / "_base_").is_dir() else _PACKAGE / ".mim" / "configs"


def find_config(name: str | os.PathLike) -> Path:
    """Find a config by its path, or one of HOOK's by its name.

    Args:
        name: Path of a config, or the name of one that comes with HOOK, with or without folder
            and ``.py``.

    Raises:
        ConfigError: There is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    root = config_root()
    known = {p.stem: p for p in sorted(root.glob("*/*.py")) if p.parent.name != "_base_"}
    stem = path.name.removesuffix(".py")
    if stem in known and len(path.parts) <= 2:
        return known[stem]
    close = difflib.get_close_matches(stem, known, n=3)
    raise ConfigError(
        f"config {name} does not exist",
        expected="a config file, or the name of a config that comes with HOOK",
        found="nothing of this name" + (f"; there is {', '.join(close)}" if close else ""),
        remedy="check the path, or take a name of those in configs/",
    )
