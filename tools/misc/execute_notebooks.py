"""Run notebooks and save their outputs, small enough to be committed.

    python tools/misc/execute_notebooks.py                   # all
    python tools/misc/execute_notebooks.py notebooks/3_*.ipynb

Notebooks run in the root of the repository with ``data/demo`` and ``work_dirs/notebooks``. Images
are stored as JPEG, or as PNG with a palette if much smaller, at most 1,100 pixels wide; stderr is
dropped. A notebook that fails, exceeds ``--max-kb`` or contains a local path is not changed.
"""

import argparse
import base64
import io
import os
import sys
import time
from pathlib import Path

import nbclient
import nbformat
from nbformat import NotebookNode
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from hook.errors import ConfigError, reports_errors
from hook.geo.staging import atomic_write

QUALITY = 70
COLOURS = 128
WIDEST = 1100
PICTURES = ("image/png", "image/jpeg")
REMARKS = ("Could not import OneDL\n",)  # irrelevant messages of libraries


def execute(path: Path, timeout: int) -> NotebookNode:
    """Run a notebook and return it with its outputs; ``timeout`` in seconds per cell."""
    # The kernel inherits the environment: inline figures, no progress bars.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(REPO)}}
    nbclient.NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources=resources
    ).execute()
    return notebook


def shrink(notebook: NotebookNode) -> None:
    """Shrink outputs and remove what differs between machines and runs."""
    notebook.metadata = NotebookNode(
        kernelspec=dict(display_name="Python 3", language="python", name="python3"),
        language_info=dict(name="python"),
    )
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type != "code":
            continue
        kept = [o for o in cell.outputs if o.output_type != "stream" or o.name != "stderr"]
        for output in kept:
            if output.output_type == "stream":
                for remark in REMARKS:
                    output.text = output.text.replace(remark, "")
        cell.outputs = _join_streams(kept)
        for output in cell.outputs:
            output.get("metadata", {}).clear()
            data = output.get("data", {})
            encoded = next((data.pop(kind) for kind in PICTURES if kind in data), None)
            data.pop(PICTURES[1], None)
            if encoded is not None:
                kind, picture = shrink_picture(base64.b64decode(encoded))
                data[kind] = base64.b64encode(picture).decode()


def _join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Merge consecutive stream outputs."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and not output.text.strip():
            continue
        if output.output_type == "stream" and joined and joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def shrink_picture(picture: bytes) -> tuple[str, bytes]:
    """Encode an image as JPEG, or as PNG with a palette if less than half as large (drawings).

    Returns:
        The MIME type and the encoded image.
    """
    image = Image.open(io.BytesIO(picture))
    if image.mode != "RGB":
        rgba = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
    if image.width > WIDEST:
        size = WIDEST, round(image.height * WIDEST / image.width)
        image = image.resize(size, Image.Resampling.LANCZOS)
    photo, drawing = io.BytesIO(), io.BytesIO()
    image.save(photo, "JPEG", quality=QUALITY, optimize=True)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(drawing, "PNG", optimize=True)
    if 2 * len(drawing.getvalue()) < len(photo.getvalue()):
        return PICTURES[0], drawing.getvalue()
    return PICTURES[1], photo.getvalue()


def check(text: str, path: Path, max_kb: int) -> None:
    """Raise ConfigError if a notebook is too large or contains a local path."""
    if len(text) > 1000 * max_kb:
        raise ConfigError(
            f"{path} is too large to be committed",
            expected=f"at most {max_kb} kB (--max-kb)",
            found=f"{len(text) / 1000:.0f} kB",
            remedy="draw smaller figures, or fewer polygons in maps",
        )
    for folder in {str(REPO), str(Path.home()), sys.prefix}:
        if len(folder) > 1 and f"{folder}/" in text:
            raise ConfigError(
                f"{path} contains a path of this machine",
                found=folder,
                remedy="print paths relative to the repository",
            )


@reports_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--timeout", type=int, default=600, help="limit per cell in seconds")
    parser.add_argument("--max-kb", type=int, default=500, help="limit per notebook with outputs")
    args = parser.parse_args(argv)
    for path in args.notebooks or sorted((REPO / "notebooks").glob("*.ipynb")):
        start = time.monotonic()
        notebook = execute(path, args.timeout)
        shrink(notebook)
        text = nbformat.writes(notebook) + "\n"
        check(text, path, args.max_kb)
        with atomic_write(path) as part:
            part.write_text(text)
        seconds = time.monotonic() - start
        print(f"{path.name}: {seconds:.0f} s, {len(text) / 1000:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
