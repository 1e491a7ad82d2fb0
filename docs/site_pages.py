"""MkDocs hooks: pages built from other files of the repository.

A line ``{{ name argument }}`` of a page is replaced when the site is built:

``{{ section FILE HEADING }}``  one section of a Markdown file of the repository
``{{ text FILE }}``             a Markdown file without its title
``{{ apis }}``                  the public names of ``hook.apis``
``{{ exports MODULE }}``        the names of a module's ``__all__``
``{{ help }}``                  the help of ``hook`` and all its commands
``{{ tools }}``                 the scripts of ``tools/``, each with its docstring's first paragraph
``{{ configs }}``               the configs, each with its first comment

In the site, the pages of ``docs/`` are at the root, next to ``configs/`` and ``data/``. Links are
written for the repository and rewritten when the site is built.
"""

import ast
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_MARKER = re.compile(r"^\{\{ (\w+)(?: (\S+))?(?: (.+?))? \}\}$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
_CONFIG_LINK = re.compile(r"(\]\((?!\w+:)[^)\s#]+\.py)\)")


# ------------------------------------------------------------------------------------- files
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages, configs, logs and images from outside ``docs/`` to the site."""
    readmes = [ROOT / "data" / "README.md", *sorted(ROOT.glob("configs/*/README.md"))]
    sources = [ROOT / "README.md", ROOT / "CHANGES.md", *ROOT.glob("docs/**/*.md"), *readmes]
    for path in [*readmes, *_linked_files(sources)]:
        files.append(File.generated(config, _name(path), abs_src_path=str(path)))
    for path in configs():
        # Search finds configs through their READMEs, so their pages are excluded.
        page = f"---\nsearch:\n  exclude: true\n---\n\n# {path.stem}\n\n`{_name(path)}`\n\n"
        page += f"```python\n{path.read_text()}```\n"
        files.append(File.generated(config, f"{_name(path)}.md", content=page))
    return files


def _linked_files(pages: list[Path]) -> list[Path]:
    """List the logs and images linked from pages."""
    found = set()
    for page in pages:
        for link in _LINK.finditer(page.read_text()):
            path = (page.parent / link[1]).resolve()
            if path.suffix not in (".md", ".py", "") and path.is_file() and ROOT in path.parents:
                found.add(path)
    return sorted(found)


def configs() -> list[Path]:
    """List the configs except ``_base_``."""
    base = ROOT / "configs" / "_base_"
    return sorted(p for p in ROOT.glob("configs/**/*.py") if base not in p.parents)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ------------------------------------------------------------------------------------- pages
def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the markers of a page and rewrite its links."""

    def fill(marker: re.Match) -> str:
        name, *arguments = marker.groups()
        if name not in _PARTS:
            raise PluginError(f"{page.file.src_uri}: {name!r} is not one of {sorted(_PARTS)}")
        part = _PARTS[name](*(a for a in arguments if a is not None))
        return _moved(part, arguments[0], uri) if name in _OF_FILES else part

    uri = page.file.src_uri
    source = Path(page.file.abs_src_path or "")
    if source.is_relative_to(ROOT):
        markdown = _moved(markdown, _name(source), uri)
    # In the site the page of a config is called <name>.py.md.
    return _CONFIG_LINK.sub(r"\1.md)", _MARKER.sub(fill, markdown))


def _moved(part: str, path: str, page: str) -> str:
    """Rewrite the relative links of a repository file for a page of the site."""

    def move(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1]))
        target = posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(page) or ".")
        return f"]({target}{link[2] or ''})"

    return _LINK.sub(move, part)


def section(path: str, heading: str) -> str:
    """Return a section of a Markdown file without its heading; raise PluginError if missing."""
    inside, fenced, lines = False, False, []
    for line in (ROOT / path).read_text().splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("## ") and not fenced:
            inside = line == f"## {heading}"
        elif inside:
            lines.append(line)
    if not lines:
        raise PluginError(f"{path} has no section '## {heading}'")
    return "\n".join(lines).strip("\n")


def text(path: str) -> str:
    """Return a Markdown file without its title."""
    return (ROOT / path).read_text().partition("\n")[2]


def apis() -> str:
    """Return the directives for the names of ``hook.apis``, by module."""
    from hook.apis import _MODULES

    lines = []
    for module in dict.fromkeys(_MODULES.values()):
        path = ROOT.joinpath(*module.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        summary, _, _ = docstring(source).partition("\n")
        lines += [f"## {module.removeprefix('hook.')}", "", _plain(summary), ""]
        lines += [f"::: {module}.{name}\n" for name, m in _MODULES.items() if m == module]
    return "\n".join(lines)


def exports(module: str) -> str:
    """Return the directives for a module's ``__all__``, read from its source."""
    tree = ast.parse((ROOT / module.replace(".", "/") / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = ast.literal_eval(node.value)
            return "\n".join(f"::: {module}.{name}\n" for name in names)
    raise PluginError(f"{module} has no __all__")


def command_help() -> str:
    """Return the help of ``hook`` and all its commands."""
    from hook.cli import build_parser

    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "96"
    try:
        parser = build_parser()
        commands = next(a for a in parser._actions if a.dest == "command").choices
        parts = [("hook", parser), *((f"hook {name}", p) for name, p in commands.items())]
        return "\n".join(f"## {name}\n\n```text\n{p.format_help()}```\n" for name, p in parts)
    finally:
        os.environ.pop("COLUMNS")
        if width is not None:
            os.environ["COLUMNS"] = width


def tools() -> str:
    """Return tables of the scripts and the first paragraphs of their docstrings, by folder."""
    return "\n".join(_tool_tables())


def _tool_tables() -> Iterator[str]:
    root = ROOT / "tools"
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        rows = []
        for path in sorted(folder.iterdir()):
            if path.suffix == ".py" and "__main__" in path.read_text():  # else a module
                summary = docstring(path).partition("\n\n")[0]
            elif path.suffix == ".sh":
                summary = path.read_text().splitlines()[1].strip("#: ") + "."
            else:
                continue
            rows.append(f"| `{path.name}` | {_cell(_plain(summary))} |")
        if rows:
            yield from (f"## {_name(folder)}", "", "| script | what it does |", "| --- | --- |")
            yield from (*rows, "")


def config_tables() -> str:
    """Return tables of the configs and their first comments, by method."""
    return "\n".join(_config_tables())


def _config_tables() -> Iterator[str]:
    folders: dict[Path, list[Path]] = {}
    for path in configs():
        folders.setdefault(ROOT / Path(_name(path)).parents[-3], []).append(path)
    for folder, paths in folders.items():
        yield from (f"## {folder.name}", "")
        if (folder / "README.md").exists():
            yield from (f"[README](../{_name(folder)}/README.md)", "")
        yield from ("| config | description |", "| --- | --- |")
        for path in paths:
            comment = _cell(_first_comment(path.read_text()))
            yield f"| [{path.stem}](../{_name(path)}) | {comment} |"
        yield ""


def docstring(path: Path) -> str:
    """Return a module's docstring."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def _first_comment(code: str) -> str:
    """Return the comment at the start of a file as one line."""
    lines = []
    for line in code.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def _cell(text: str) -> str:
    """Format text as a table cell; escape special characters outside code."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()).replace("|", "\\|"))
    return "".join(p if p.startswith("`") else re.sub(r"([_*<])", r"\\\1", p) for p in parts)


def _plain(text: str) -> str:
    """Convert reStructuredText roles and literals to Markdown code."""
    return re.sub(r"(?::\w+:)?``?([^`]+)``?", r"`\1`", text)


_OF_FILES = ("section", "text")
_PARTS = {
    "apis": apis,
    "configs": config_tables,
    "exports": exports,
    "help": command_help,
    "section": section,
    "text": text,
    "tools": tools,
}
