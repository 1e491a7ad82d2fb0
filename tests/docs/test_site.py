"""The documentation builds without warnings and is complete."""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from mmengine.registry import Registry

import hook.apis
import hook.regions
import hook.tokenizers
from hook import registry
from hook.cli import build_parser


@pytest.fixture(scope="module")
def site(repo, tmp_path_factory) -> Path:
    """The site as built by ``make docs``."""
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        if importlib.util.find_spec(name.split(".")[0]) is None:
            pytest.skip(f"{name} is not installed: pip install 'hook-rs[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=repo, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def documented(site) -> set[str]:
    """Names documented in the reference, from the inventory for links of other sites."""
    inventory = (site / "objects.inv").read_bytes()
    entries = zlib.decompress(inventory.split(b"\n", 4)[4]).decode()
    return {line.split()[0] for line in entries.splitlines()}


def test_reference_has_every_public_name(documented):
    lazy = {f"{hook.apis._MODULES[name]}.{name}" for name in hook.apis.__all__}
    assert lazy <= documented
    for module in (hook.tokenizers, hook.regions):
        assert {f"{module.__name__}.{name}" for name in module.__all__} <= documented


def test_reference_has_every_registered_class(documented):
    names = {name.rpartition(".")[2] for name in documented}
    for known in vars(registry).values():
        if not isinstance(known, Registry):
            continue
        known.import_from_location()
        own = {k for k, kind in known.module_dict.items() if kind.__module__.startswith("hook.")}
        assert own <= names, f"{known.name}: {own - names}"


def test_commands_have_their_help(site):
    page = (site / "reference" / "cli.html").read_text()
    commands = next(a for a in build_parser()._actions if a.dest == "command").choices
    for name, parser in commands.items():
        assert f"hook {name}" in page
        for option, action in parser._option_string_actions.items():
            # Deprecated spellings are hidden.
            assert option in page or action.help == argparse.SUPPRESS, option


def test_results_and_changes_are_included(site, repo):
    results = (site / "results.html").read_text()
    for name in re.findall(r"\[([\w-]+)\]\(configs/\w+/\1\.py\)", (repo / "README.md").read_text()):
        assert f"{name}.py.html" in results
    assert "Tokenizers: the paper" in (site / "changes.html").read_text()


def test_nothing_is_fetched(site):
    """Pages load no script, style, font or image from other servers."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe)[^>]+src=\"?(?:https?:)?//", text), page
        assert not re.findall(r"<link[^>]+(?:stylesheet|preconnect)[^>]+//", text), page


def test_docstring_roles_become_links(site):
    page = (site / "reference" / "apis.html").read_text()
    assert not re.search(r":(?:class|func|meth|data|mod):", page)
    assert 'href="#hook.inference.models.load_model"' in page


def _slugs(text: str) -> set[str]:
    """List the anchors of the headings of a page on a code host."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_links_lead_somewhere_on_a_code_host(repo):
    names = ("*.md", "data/*.md", "configs/*/*.md", "docs/**/*.md")
    for page in (path for name in names for path in repo.glob(name)):
        for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text()):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page}: {link}"
            # Anchors of the reference are checked by the build.
            if anchor and "{{" not in target.read_text():
                assert anchor in _slugs(target.read_text()), f"{page}: {link}"
