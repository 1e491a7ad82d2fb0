"""Fetch the JavaScript that the page of ``hook explore`` needs.

    python tools/misc/bundle_explore.py

Calls ``npm ci`` for the versions and hashes of ``hook/explore/package-lock.json`` and copies the
files that the page loads to ``hook/explore/static/vendor/``, which git ignores and wheels contain.
npm's own settings choose the registry. Run it once before ``pip wheel .``, or to use ``hook
explore`` from a checkout; nothing else in HOOK needs npm.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from hook.errors import ConfigError, reports_errors

EXPLORE = Path(__file__).resolve().parents[2] / "hook" / "explore"
FILES = (
    "maplibre-gl/dist/maplibre-gl.mjs",
    "maplibre-gl/dist/maplibre-gl-worker.mjs",
    "maplibre-gl/dist/maplibre-gl.css",
    "maplibre-gl/LICENSE.txt",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--npm", default="npm", help="npm's command (default: npm)")
    return parser.parse_args(argv)


def bundle(npm: str = "npm", folder: Path = EXPLORE) -> list[Path]:
    """Fetch the packages of ``folder`` and replace its ``static/vendor/``.

    Returns:
        The files of the bundle.

    Raises:
        ConfigError: npm is missing or fails, or a package lacks a file. The former bundle stays.
    """
    program = shutil.which(npm)
    if program is None:
        raise ConfigError(
            f"the page of 'hook explore' is fetched with npm, found no command {npm!r}; install "
            "Node.js with npm, or copy static/vendor/ from another installation"
        )
    static = folder / "static"
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=static) as name:
        work = Path(name)
        for listed in ("package.json", "package-lock.json"):
            shutil.copy(folder / listed, work)
        # Scripts of packages would run here; none is needed.
        command = [program, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True)
        if done.returncode:
            raise ConfigError(f"'npm ci' failed; mend this and run again:\n{done.stderr.strip()}")
        (work / "vendor").mkdir()
        for file in FILES:
            if not (source := work / "node_modules" / file).is_file():
                raise ConfigError(
                    f"expected {file} among the packages, found none; the version in "
                    f"{folder / 'package-lock.json'} has other files: change FILES"
                )
            shutil.copy(source, work / "vendor")
        shutil.rmtree(static / "vendor", ignore_errors=True)
        (work / "vendor").rename(static / "vendor")
    return sorted((static / "vendor").iterdir())


@reports_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for path in bundle(args.npm):
        print(f"{path} ({path.stat().st_size / 1024:,.0f} kB)")


if __name__ == "__main__":
    main()
