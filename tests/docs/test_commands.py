"""Commands, Python code and file names of the documentation are valid."""

import argparse
import ast
import configparser
import contextlib
import functools
import importlib
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from mmengine.registry import Registry

import hook.apis
import hook.cli
from hook import registry

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "data" / "README.md"]
    + [*ROOT.glob("configs/*/README.md"), *ROOT.glob("docs/**/*.md")]
)
EXECUTED = "<!-- executed by the tests -->"
GIVEN = re.compile(r"<!-- (\S+) of the tests -->")
ASSIGNMENT = re.compile(r"[A-Z_]+=")

# Lines with this first word are not parsed, with the reason.
NOT_PARSED = {
    "for": "the shell's own",
    "done": "the shell's own",
    "rio": "rasterio's command; run where the page is executed",
    "dask": "Dask's commands, which need a scheduler",
    "ssh": "reaches another machine",
}
# Python that is neither run nor checked: (page, first line) to reason.
NOT_CHECKED: dict[tuple[str, str], str] = {}

# Blocks that are parsed against the programs' options, but not executed, for these reasons: page to
# the beginning of the block's first line.
DATA = "a public data set, to be downloaded"
WEIGHTS = "weights of trainings that take hours, on a public data set to be downloaded"
WEIGHTS_OF_TIMM = "downloads weights; tests/apis calls the function with random ones"
SERVES = "serves until it is stopped; tests/explore starts the command"
TIME = "minutes on an idle machine; tests/tools executes the program on small models"
CLUSTER = "a cluster"
GPU = "several GPUs"
CODECS = "a trained autoencoder; tests/cli and tests/apis do the same with a small one"
GENERATOR = "a trained generator; tests/apis and tests/tools do the same with a small one"
PART = "a part of a config, whose names are checked"
MAKE = "installs; `make demo` is tested as tools/demo.py, `make test` runs this"
READERS = "the reader's own folder or config; tests/tools executes the program on small ones"
NOT_EXECUTED = {
    "README.md": {
        "make demo": MAKE,
        "python tools/train.py": DATA,
        "tokenizer = dict(type": PART,
    },
    "configs/autoencoders/README.md": {"python tools/dataset_tools/": DATA},
    "configs/generators/README.md": {"python tools/dataset_tools/": DATA},
    "configs/benchmark/README.md": {
        "python tools/analysis_tools/benchmark.py": TIME,
        "python tools/analysis_tools/scene_benchmark.py": TIME,
        "python tools/analysis_tools/kill_and_resume.py": DATA,
    },
    "docs/howto/explore.md": {
        "from hook.explore.notebook": SERVES,
        "pip install 'hook-rs[explore]'": SERVES,
        "hook explore configs/hook/demo_hook.py": SERVES,
        "python tools/misc/bundle_explore.py": "fetches packages with npm",
        "hook map scene_explore/model": "takes a training; tests/explore maps with a small model",
        "ssh": "reaches another machine",
    },
    "configs/hook/README.md": {
        'python -c "from hook.apis import pretrain': DATA,
        "python tools/dataset_tools/": DATA,
        "python tools/train.py": DATA,
        "python tools/analysis_tools/token_curve.py": WEIGHTS,
        "python tools/analysis_tools/few_labels.py": WEIGHTS,
        "python tools/analysis_tools/ablation.py": DATA,
        "hook map": WEIGHTS,
        "python tools/analysis_tools/benchmark.py": TIME,
        "python tools/analysis_tools/scaling.py": TIME,
    },
    "configs/patch_embed/README.md": {"python tools/dataset_tools/": DATA},
    "configs/pretrain/README.md": {
        "from pathlib import Path": DATA,
        "python tools/analysis_tools/few_labels.py": DATA,
        "python tools/dataset_tools/": DATA,
        "python tools/train.py": DATA,
    },
    "configs/segformer/README.md": {"python tools/dataset_tools/": DATA},
    "configs/unet/README.md": {"python tools/dataset_tools/": DATA},
    "docs/explain/adaptivity.md": {"tokenizer = dict(": PART, "python tools/train.py": DATA},
    "docs/explain/regions.md": {"python tools/test.py": READERS},
    "docs/explain/speed.md": {"python tools/analysis_tools/get_flops.py": TIME},
    "docs/explain/tokens.md": {
        "tokenizer = dict(type": PART,
        "hook tokens": "the reader's own image; tests/cli executes the command",
        "python tools/analysis_tools/token_quality.py": READERS,
    },
    "docs/howto/autoencoders.md": {
        "python tools/analysis_tools/code_words.py": DATA,
        "python tools/train.py": DATA,
        "python tools/analysis_tools/tokenizer_benchmark.py": READERS,
    },
    "docs/howto/cluster.md": {
        "pip install": CLUSTER,
        "hook map": CLUSTER,
        "bash tools/slurm_": CLUSTER,
    },
    "docs/howto/codes.md": {
        "hook encode": CODECS,
        "from hook.apis import decode, encode": CODECS,
        "hook encode CONFIG CHECKPOINT scene.tif codes.hkc": CODECS,
        "python tools/analysis_tools/scene_codes.py": CODECS,
        "from hook.apis import surprise_map": GENERATOR,
        "python tools/analysis_tools/foreign_patches.py": GENERATOR,
    },
    "docs/howto/generate.md": {
        "python tools/generate.py": GENERATOR,
        "from hook.apis import generate": GENERATOR,
    },
    "docs/howto/dataset-class.md": {
        "custom_imports": PART,
        "PYTHONPATH=FOLDER": READERS,
    },
    "docs/howto/own-images.md": {
        "make demo DATA": MAKE,
        "python tools/dataset_tools/": READERS,
        "model = dict(backbone=": PART,
    },
    "docs/howto/pretrain.md": {'pretrain("images", "work_dirs/alone"': WEIGHTS_OF_TIMM},
    "docs/howto/public-data.md": {
        "python tools/dataset_tools/": DATA,
        "python tools/train.py": DATA,
        "dataset = dict(": PART,
    },
    "docs/howto/qgis.md": {"pip install": "installs; the second line is executed in tests/cli"},
    "docs/howto/several-gpus.md": {"bash tools/dist_": GPU, "NNODES=2": GPU, "hook map": GPU},
    "docs/howto/tokenizer-class.md": {
        "custom_imports": PART,
        "python tools/analysis_tools/": READERS,
    },
    "docs/howto/trained-models.md": {"python tools/misc/publish_model.py": READERS},
    "docs/index.md": {"make demo": MAKE},
    "docs/reference/generators.md": {
        "python tools/train.py": DATA,
        "python tools/analysis_tools/codec_table.py": DATA,
        "python tools/analysis_tools/rare_classes.py": DATA,
    },
}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    code: str
    note: str

    @property
    def executed(self) -> bool:
        return self.note == EXECUTED


def blocks(path: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page with the line before each."""
    page, lines = path.relative_to(ROOT).as_posix(), path.read_text().splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            note = lines[start - 1].strip() if start else ""
            code = "\n".join(lines[start + 1 : number]) + "\n"
            yield Block(page, start + 1, lines[start].strip("` "), code, note)
            start = None
    assert start is None, f"{page}: a block without an end"


BLOCKS = [block for path in PAGES for block in blocks(path)]


class Command(NamedTuple):
    """A line of a shell block."""

    where: str
    words: list[str]
    variables: dict[str, str]


def commands(block: Block, variables: dict[str, str]) -> Iterator[Command]:
    """Yield the commands of a block; ``variables`` are those of the page above it."""
    for line in block.code.replace("\\\n", " ").splitlines():
        line = re.sub(r"<[^>]+>", "PLACE", line)  # a placeholder
        line = re.sub(r"\$(\w+)", lambda name: variables.get(name[1], name[0]), line)
        words = shlex.split(line, comments=True)
        own = {}
        while words and ASSIGNMENT.match(words[0]):
            name, _, value = words.pop(0).partition("=")
            own[name] = value
        if words:
            yield Command(f"{block.page}:{block.line}", words, own)
        else:
            variables.update(own)


def all_commands() -> list[Command]:
    found, variables, page = [], {}, None
    for block in BLOCKS:
        if block.language not in ("bash", ""):
            continue
        if block.page != page:
            variables, page = {}, block.page
        if block.language == "bash" or "tools/" in block.code:
            found += commands(block, variables)
    return found


COMMANDS = all_commands()


# ------------------------------------------------------------------------------------- parsing
class Parsed(Exception):
    """Ends a tool after its options are parsed."""


@pytest.fixture(scope="module")
def tool_modules(load_tool):
    """Tools as modules, each imported once, with their folder on the path."""
    loaded = {}

    def get(path: str):
        if path not in loaded:
            usual = list(sys.path)
            sys.path.append(str((ROOT / path).parent))
            try:
                loaded[path] = load_tool(Path(path).relative_to("tools").as_posix())
            finally:
                sys.path[:] = usual
        return loaded[path]

    return get


@pytest.fixture
def parse(tool_modules, scripts, monkeypatch):
    """A function that parses a command with its program's parser and returns whether it could."""

    def parse_tool(path: str, arguments: list[str]) -> None:
        assert (ROOT / path).is_file(), f"{path} does not exist"
        module = tool_modules(path)
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        if hasattr(module, "parse_args"):
            module.parse_args()
            return
        real = argparse.ArgumentParser.parse_args

        def stop(parser, *args, **options):
            real(parser, *args, **options)
            raise Parsed

        with monkeypatch.context() as patch, contextlib.suppress(Parsed):
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            module.main()
            raise AssertionError(f"{path} read no options")

    def parse_script(command: Command) -> None:
        words, _ = scripts.run(command.words, **command.variables)
        tool = next(word for word in words if word.endswith(".py") and "/tools/" in word)
        after = words[words.index(tool) + 1 :]
        parse_tool(Path(tool).resolve().relative_to(ROOT).as_posix(), after)

    def parse(command: Command) -> bool:
        program, *arguments = command.words
        if program == "hook":
            hook.cli.build_parser().parse_args(arguments)
        elif program == "python" and arguments[0] == "-c":
            ast.parse(arguments[1])
        elif program == "python":
            parse_tool(arguments[0], arguments[1:])
        elif program == "bash":
            parse_script(command)
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M)
        elif program == "pip":
            setup = configparser.ConfigParser()
            setup.read(ROOT / "setup.cfg")
            extra = re.fullmatch(r"hook-rs\[(\w+)\]", arguments[1])
            assert arguments[0] == "install" and extra[1] in setup["options.extras_require"]
        else:
            return False
        return True

    return parse


@pytest.mark.parametrize(
    "command", COMMANDS, ids=[f"{c.where} {' '.join(c.words[:3])}" for c in COMMANDS]
)
def test_command_is_understood(command, parse, capsys):
    listed = command.words[0] in NOT_PARSED
    try:
        assert parse(command) != listed, f"{command.words[0]}: in NOT_PARSED or not"
    except SystemExit:
        pytest.fail(f"{command.where}: {' '.join(command.words)}\n{capsys.readouterr().err}")
    for word in command.words:
        if re.match(r"(configs|tools)/[^$*]+\.\w+$", word):
            assert (ROOT / word).exists(), f"{command.where}: {word} does not exist"


def test_what_is_not_executed_has_a_reason_that_is_needed():
    assert set(NOT_PARSED) <= {command.words[0] for command in COMMANDS}
    found = {(block.page, block.code.split("\n")[0]) for block in BLOCKS}
    assert set(NOT_CHECKED) <= found
    used = set()
    for block in BLOCKS:
        if (
            block.executed
            or block.language not in ("bash", "python")
            or GIVEN.fullmatch(block.note)
        ):
            continue
        reasons = [
            start for start in NOT_EXECUTED.get(block.page, {}) if block.code.startswith(start)
        ]
        assert reasons, f"{block.page}:{block.line} is not executed, and no reason is given"
        used |= {(block.page, start) for start in reasons}
    listed = {(page, start) for page, starts in NOT_EXECUTED.items() for start in starts}
    assert listed == used, "reasons that nothing needs"


def test_commands_within_sentences_have_their_options():
    """Parts of commands, such as ``hook predict --num-tokens 4``."""
    parser = hook.cli.build_parser()
    known = next(action for action in parser._actions if action.dest == "command").choices
    count = 0
    for path in PAGES:
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
        for code in re.findall(r"`hook ([a-z]+)([^`]*)`", text):
            name, rest = code
            assert name in known, f"{path}: hook {name}"
            for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", rest):
                assert option in known[name]._option_string_actions, f"{path}: hook {name} {option}"
            count += 1
    assert count > 10


# ------------------------------------------------------------------------------------- Python
def registered(name: str):
    """Return the class registered as ``hook.<name>``."""
    for known in vars(registry).values():
        if isinstance(known, Registry) and (found := known.get(f"hook.{name}")) is not None:
            return found
    return None


def check_names(tree: ast.AST, own: set[str]) -> None:
    """Check the imports from HOOK, and the types and arguments in configs, of Python code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hook":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict"):
            continue
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        name = getattr(options.pop("type", None), "value", None)
        if not isinstance(name, str) or not name.startswith("hook."):
            continue
        name = name.removeprefix("hook.")
        if name in own:
            continue
        kind = registered(name)
        assert kind is not None, f"hook.{name} is in no registry"
        taken = inspect.signature(kind).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            unknown = set(options) - set(taken) - {"_delete_", None}
            assert not unknown, f"hook.{name} does not take {unknown}"


def python_blocks(page: str) -> list[Block]:
    return [block for block in BLOCKS if block.page == page and block.language == "python"]


@pytest.mark.parametrize("page", sorted({b.page for b in BLOCKS if b.language == "python"}))
def test_python_names_what_there_is(page):
    trees = [
        ast.parse(block.code)
        for block in python_blocks(page)
        if (page, block.code.split("\n")[0]) not in NOT_CHECKED
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    for tree in trees:
        check_names(tree, own)


# ------------------------------------------------------------------------------------- execution
@pytest.mark.parametrize("page", sorted({b.page for b in BLOCKS if b.executed}))
def test_page_runs(page, copy_of_demo, monkeypatch, capsys):
    """Marked blocks run from top to bottom, on a small scene with the names of the demo.

    Training is that of the smallest model, for one epoch.
    """
    brief = dict(base="hook-fast-tiny_banepa-256", epochs=1, chip_size=64, batch_size=2)
    train = functools.partial(hook.apis.train, **brief, progress=False)
    monkeypatch.setattr(hook.apis, "train", train)
    brief = dict(epochs=1, chip_size=32, max_chips=8, batch_size=4)
    brief["frozen"] = dict(weights=None, levels=(1,), scale=1.0)
    pretrain = functools.partial(hook.apis.pretrain, **brief, progress=False)
    monkeypatch.setattr(hook.apis, "pretrain", pretrain)
    variables, namespace = {}, {}
    for block in (b for b in BLOCKS if b.page == page):
        if given := GIVEN.fullmatch(block.note):
            (copy_of_demo / given[1]).write_text(block.code)
        if not block.executed:
            continue
        if block.language == "python":
            exec(compile(block.code, f"{page}:{block.line}", "exec"), namespace)
            continue
        assert block.language == "bash"
        for command in commands(block, variables):
            try:
                execute(command.words)
            except SystemExit as end:
                if end.code:
                    pytest.fail(f"{command.where}: {command.words}\n{capsys.readouterr().err}")


def execute(words: list[str]) -> None:
    """Run a command in this process, with imports done."""
    if words[:2] == ["python", "-c"]:
        exec(compile(words[2], "-c", "exec"), {})
    elif words[0] == "rio":
        from rasterio.rio.main import main_group

        main_group.main(words[1:], standalone_mode=False)
    else:
        assert words[0] == "hook", f"{words[0]} is not executed; take the mark away"
        hook.cli.main(words[1:])


# ------------------------------------------------------------------------------------- scripts
SCRIPTS = sorted((ROOT / "tools").glob("*.sh"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(path):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck, which reads shell scripts, is not on this machine")
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", ("train", "test"))
def test_slurm_asks_for_what_the_environment_says(kind, scripts, repo):
    own = ["config.py", *(["c.pth"] if kind == "test" else []), "--cfg-options", "a=[1, 2]"]
    words, path = scripts.run(
        ["bash", f"tools/slurm_{kind}.sh", "part", "name with space", *own],
        GPUS="8",
        GPUS_PER_NODE="2",
        CPUS_PER_TASK="3",
        SRUN_ARGS="--time=1:00:00 --mem=4G",
    )
    program = words.index("-u") - 1
    assert words[1:program] == [
        "-p",
        "part",
        "--job-name=name with space",
        "--gres=gpu:2",
        "--ntasks=8",
        "--ntasks-per-node=2",
        "--cpus-per-task=3",
        "--kill-on-bad-exit=1",
        "--time=1:00:00",
        "--mem=4G",
    ]
    after = words[program + 2 :]
    assert Path(after[0]).samefile(repo / "tools" / f"{kind}.py")
    positional = 2 if kind == "test" else 1
    assert after[1:] == [*own[:positional], "--launcher", "slurm", *own[positional:]]
    assert Path(path.split(":")[0]).samefile(repo)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_say_how_they_are_used(path, repo):
    done = subprocess.run(["bash", path], capture_output=True, text=True, cwd=repo, timeout=60)
    assert done.returncode == 2
    assert "usage: " in done.stderr and "CONFIG" in done.stderr
