"""Configs that come with HOOK are found in the repository and in a wheel."""

import pytest
from mmengine.config import Config

from hook.engine.configs import config_root, find_config
from hook.errors import ConfigError


def test_configs_are_found_by_name():
    path = find_config("hook-fast-skip_vit-192x6_banepa-256")
    assert path == config_root() / "hook" / "hook-fast-skip_vit-192x6_banepa-256.py"
    assert find_config("hook/demo_hook.py").is_file()
    with pytest.raises(ConfigError, match="similar: .*demo_hook"):
        find_config("demo_hok")


def test_a_wheel_holds_the_configs(repo, tmp_path):
    setuptools = pytest.importorskip("setuptools")
    distribution = setuptools.Distribution({"packages": []})
    code = (repo / "setup.py").read_text().replace("setup(cmdclass", "dict(cmdclass")
    names = {"__file__": str(repo / "setup.py"), "__name__": "setup"}
    exec(compile(code, "setup.py", "exec"), names)
    command = names["BuildWithConfigs"](distribution)
    command.build_lib, command.editable_mode = str(tmp_path), False
    command.ensure_finalized()
    command.run()
    shipped = tmp_path / "hook" / ".mim" / "configs"
    name = "hook/hook-fast-skip_vit-192x6_banepa-256.py"
    assert Config.fromfile(shipped / name).model == Config.fromfile(config_root() / name).model
    assert not list(shipped.rglob("*.json")) and list(shipped.rglob("*.txt"))
