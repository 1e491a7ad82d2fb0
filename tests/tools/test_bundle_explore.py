"""bundle_explore.py, with a program in place of npm."""

import json

import pytest

from hook.errors import ConfigError


@pytest.fixture
def explore(repo, tmp_path):
    """A copy of the list of packages, with a bundle of an earlier version."""
    folder = tmp_path / "explore"
    (folder / "static/vendor").mkdir(parents=True)
    (folder / "static/vendor/old.mjs").write_text("old")
    for name in ("package.json", "package-lock.json"):
        (folder / name).write_bytes((repo / "hook/explore" / name).read_bytes())
    return folder


def program(folder, *lines):
    path = folder / "npm"
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o755)
    return str(path)


def test_files_of_the_packages_replace_the_bundle(load_tool, explore, tmp_path):
    tool = load_tool("misc/bundle_explore.py")
    made = [f"mkdir -p node_modules/{file.rpartition('/')[0]}" for file in tool.FILES]
    made += [f"echo {file} > node_modules/{file}" for file in tool.FILES]
    npm = program(tmp_path, '[ "$1 $2" = "ci --ignore-scripts" ] || exit 1', *made)
    found = tool.bundle(npm, explore)
    assert {path.name for path in found} == {file.rpartition("/")[2] for file in tool.FILES}
    assert (explore / "static/vendor/maplibre-gl.mjs").read_text() == f"{tool.FILES[0]}\n"
    assert [path.name for path in (explore / "static").iterdir()] == ["vendor"]


def test_a_failure_keeps_the_bundle(load_tool, explore, tmp_path):
    tool = load_tool("misc/bundle_explore.py")
    for npm, message in (
        (program(tmp_path, "echo no network >&2", "exit 1"), "no network"),
        (str(tmp_path / "missing"), "install Node.js"),
    ):
        with pytest.raises(ConfigError, match=message):
            tool.bundle(npm, explore)
    with pytest.raises(ConfigError, match="found none"):
        tool.bundle(program(tmp_path, "true"), explore)
    assert [path.name for path in (explore / "static/vendor").iterdir()] == ["old.mjs"]


def test_packages_have_one_version_and_a_hash(repo):
    listed = json.loads((repo / "hook/explore/package.json").read_text())["dependencies"]
    lock = json.loads((repo / "hook/explore/package-lock.json").read_text())["packages"]
    for name, version in listed.items():
        assert lock[f"node_modules/{name}"]["version"] == version
    packages = [entry for place, entry in lock.items() if place]
    assert all(entry["integrity"].startswith("sha512-") for entry in packages)
    assert not any("resolved" in entry for entry in packages), "npm's settings choose the registry"
