"""Puts the configs into the wheel: ``hook/.mim/configs``, where OpenMMLab's packages have theirs.

Everything else stands in ``setup.cfg``.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = Path(__file__).parent / "configs"
PAGE = Path(__file__).parent / "hook" / "explore" / "static" / "vendor"


class BuildWithConfigs(build_py):
    """Copies the configs beside the modules of a wheel; an editable install has them already."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if not self.editable_mode:
            if not PAGE.is_dir():  # pip shows this with --verbose
                self.warn("no page of 'hook explore': run tools/misc/bundle_explore.py before")
            shutil.copytree(
                CONFIGS,
                Path(self.build_lib, "hook", ".mim", "configs"),
                ignore=lambda folder, names: (
                    [
                        name
                        for name in names
                        if Path(folder, name).is_file() and not name.endswith((".py", ".txt"))
                    ]
                    + [name for name in names if name in ("logs", "__pycache__")]
                ),
                dirs_exist_ok=True,
            )


setup(cmdclass={"build_py": BuildWithConfigs})
