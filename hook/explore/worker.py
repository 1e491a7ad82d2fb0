"""Long jobs in a process of their own: ``python -m hook.explore.worker``.

The first line of its standard input is a job as JSON, ``{"job": ..., ...}``. It writes lines of
JSON to standard output: ``{"message": ..., "done": ...}``, or ``"address"`` of a page, with
``"error"`` or ``"files"`` at the end. It ends with its parent, whose end closes the standard input.
"""

import _thread
import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rasterio import Affine

from hook import progress
from hook.errors import HookError, of_system

_LONGEST_END = 5  # seconds between the end of the parent and that of the job


def extract(scene: str, output: str, model: Any, options: dict, request: dict) -> list[str]:
    """Write the regions of a scene, continuing an interrupted run."""
    from hook.apis import RegionExtractor

    RegionExtractor(_model(model), **options).extract(scene, output, resume=True, **request)
    return [output]


def draw(scene: str, regions: str, folder: str, digest: str, grid: list[float]) -> list[str]:
    """Draw the tiles of regions."""
    from hook.explore.id_tiles import FILE, IdTiles
    from hook.explore.picture import ScenePicture
    from hook.regions.table import Regions

    tiles = IdTiles(Path(folder), digest, Affine(*grid), ScenePicture(scene))
    tiles.draw(Regions.read(regions).tree)
    return [FILE]


def train(scene: str, labels: str, folder: str, options: dict) -> list[str]:
    """Train a segmentation of a scene on a map of it."""
    from hook.apis import train as run

    result = run(scene, labels, folder, overwrite=True, **options)
    return [str(result.config), str(result.checkpoint)]


def serve(told: Callable[[str], None], scene: str, **options: Any) -> list[str]:
    """Serve the page of a scene until the process ends, and tell its address."""
    from hook.explore.opening import explore

    explore(scene, opened=told, **options)
    return []


def _model(model: str | list[str]) -> Any:
    return tuple(model) if isinstance(model, list) else model


JOBS: dict[str, Callable[..., list[str]]] = {
    "extract": extract,
    "draw": draw,
    "train": train,
}


def main() -> None:
    """Run the job on standard input."""
    # The end of the parent interrupts a job, also where it inherited to ignore interruptions.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given = json.loads(sys.stdin.readline())
    if given["job"] != "serve" and hasattr(os, "nice"):
        os.nice(10)  # the page comes first
    # Libraries may print: only this function writes to the parent.
    answer, sys.stdout = os.fdopen(os.dup(sys.stdout.fileno()), "w"), sys.stderr
    os.dup2(sys.stderr.fileno(), 1)
    warnings.showwarning = lambda text, *_: print(f"warning: {text}", file=sys.stderr)
    threading.Thread(target=_end_with_parent, args=(answer,), daemon=True).start()
    told = [0.0]

    def tell(message: str, done: float) -> None:
        if done >= 1 or time.monotonic() - told[0] > 0.2:
            told[0] = time.monotonic()
            _write(answer, message=message, done=round(done, 4))

    progress.listeners.append(tell)
    try:
        jobs = JOBS | {"serve": partial(serve, lambda address: _write(answer, address=address))}
        _write(answer, files=jobs[given.pop("job")](**given))
    except Exception as error:
        known = error if isinstance(error, HookError) else of_system(error)
        if known is None:
            traceback.print_exc()
            known = HookError("the job failed", found=f"{type(error).__name__}: {error}")
        parts = (known.what, known.expected, known.found, known.remedy)
        _write(answer, error=[None if part is None else str(part) for part in parts])


def _write(file: Any, **content: Any) -> None:
    file.write(json.dumps(content) + "\n")
    file.flush()


def _end_with_parent(answer: Any) -> None:
    sys.stdin.read()
    nothing = os.open(os.devnull, os.O_WRONLY)
    for file in (answer, sys.stderr):  # nobody reads what follows
        os.dup2(nothing, file.fileno())
    _thread.interrupt_main()  # which removes the files that it has begun
    time.sleep(_LONGEST_END)
    os._exit(1)


if __name__ == "__main__":
    main()
