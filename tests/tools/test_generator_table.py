"""generator_table: its rows, and tiny runs over random codecs of random tiles."""

import csv
import json
import math

import pytest
import torch
from filelock import FileLock
from PIL import Image
from scipy.stats import chisquare

from hook.apis import load_model
from hook.engine.configs import load_config, setup_environment
from hook.engine.models import build_model
from hook.engine.tta import apply_view, views
from hook.models import TileGenerator

CODECS = {
    "KL 32": ("kl/kl-32", {}),
    "IBQ 512": ("ibq/ibq-1k", {"codebook_size": 512}),
    "RQ depth 2": ("rq/rq-1k-d2", {}),
}
NETWORK = ("embed_dims=16", "depth=2", "num_heads=2")
OPTIONS = ("--iters", "4", "--points", "2", "--samples", "20", "--codec-seed", "0")
OPTIONS += ("--packed", "0")
OPTIONS += ("--cfg-options", *(f"model.network.{one}" for one in NETWORK))


@pytest.fixture(scope="module")
def tool(load_tool):
    setup_environment()
    return load_tool("analysis_tools/generator_table.py")


@pytest.fixture(scope="module")
def training(load_tool):
    return load_tool("analysis_tools/generator_training.py")


@pytest.fixture(scope="module")
def folder(tool, repo, tmp_path_factory):
    """The runs of two codecs with random weights."""
    folder = tmp_path_factory.mktemp("table")
    torch.manual_seed(0)
    for name, (path, options) in CODECS.items():
        run = folder / "codecs" / f"{tool.slug(name)}_seed0"
        run.mkdir(parents=True)
        path = repo / "configs" / "autoencoders" / f"{path}_s8_eurosat-2k-64.py"
        cfg = load_config(path, {f"model.quantizer.{key}": v for key, v in options.items()})
        cfg.dump(run / "config.py")
        torch.save(dict(state_dict=build_model(cfg).state_dict()), run / "iter_2.pth")
        (run / "last_checkpoint").write_text("/moved/since/iter_2.pth")
    return folder


@pytest.fixture
def run(tool, folder, eurosat_tiles, monkeypatch):
    """Call the tool with a frozen network of random weights; return its exit status."""
    frozen = dict(tool.FROZEN, weights=None, scale=1.0)
    monkeypatch.setattr(tool, "FROZEN", frozen)

    def call(*arguments):
        places = ("--data", eurosat_tiles, "--codecs", folder / "codecs")
        return tool.main([*map(str, (*arguments, *places))])

    return call


def lines_of(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_codes_are_drawn_as_often_as_they_are_probable(training):
    probable = torch.tensor([0.4, 0.0, 0.3, 0.2, 0.05, 0.05, 0.0], dtype=torch.float64)
    logits = probable.log().expand(20000, 1, 7)
    drawn = training.draw_categorical(logits, torch.Generator().manual_seed(0))
    assert drawn.shape == (20000, 1)
    counts = drawn.flatten().bincount(minlength=7)
    possible = probable > 0
    assert not counts[~possible].any()
    assert chisquare(counts[possible], 20000 * probable[possible]).pvalue > 1e-3


def test_every_row_builds_over_its_codec(tool, training, load_tool, repo):
    codecs = {}
    for rows in load_tool("analysis_tools/codec_table.py").TABLES.values():
        codecs |= rows
    weights = {}
    for rows in tool.TABLES.values():
        for name, (path, codec, options) in rows.items():
            cfg = load_config(training.CONFIGS / f"{path}.py")
            if codec is not None:
                of, changes = codecs[codec]
                of = load_config(repo / "configs" / "autoencoders" / f"{of}.py", changes).model
                if "backbone" in of.encoder:
                    of.encoder.backbone.weights = None  # those of an optional package
                of.losses = []
                cfg.model.codec = of
            cfg.merge_from_dict(options)
            network = build_model(cfg).network
            weights[name] = sum(p.numel() for p in network.parameters())
    assert weights["LFQ in factors"] == pytest.approx(weights["LFQ flat"], rel=0.06)
    for depth in (2, 4):
        one, flat = weights["RQ depth 1"], weights[f"RQ depth {depth}, flat"]
        assert weights[f"RQ depth {depth}"] - one == (depth - 1) * 256  # norms of further heads
        assert flat == one
    assert weights["VA-VAE 32"] == weights["KL 32"] > weights["KL 8"]


def test_the_first_seed_of_all_tables_comes_first(tool):
    args = tool.parse_args(
        ["flows", "sizes", "--seeds", "0", "1", "2", "--rows", "KL 8", "IBQ 512"]
    )
    found = [(job.table, job.seed) for job in tool.list_jobs(args)]
    assert found[:4] == [("flows", 0), ("sizes", 0), ("flows", 1), ("flows", 2)]
    assert found[4:] == [("sizes", 1), ("sizes", 2)]


def test_the_schedule_is_that_of_the_config(training):
    cfg = load_config(training.CONFIGS / f"{training.AR}.py")
    ends, rates = training.schedule_of(cfg)
    assert ends == [0, 2 / 33, 4 / 33, 1] and rates == [0.005, 1.0, 1.0, 0.1]


def test_copies_of_training_tiles_are_found_in_any_view(tool):
    train = torch.randint(240, (9, 3, 8, 8), dtype=torch.uint8)
    copies = torch.stack(
        [apply_view(train[4], (1, True)), train[7], apply_view(train[0], (3, False))]
    )
    found, difference = tool.most_similar(copies, train)
    assert torch.equal(found, copies) and difference < 0.1
    found, difference = tool.most_similar(copies + 8, train)
    assert torch.equal(found, copies) and difference == pytest.approx(8, abs=1e-3)


def test_half_precision_learns_the_same(training):
    cfg = load_config(training.CONFIGS / f"{training.AR}.py")
    cfg.model.network.update(embed_dims=16, depth=1, num_heads=2)
    cfg.model.codec_weights = None
    losses = {}
    for amp in (False, True):
        torch.manual_seed(0)
        network = build_model(cfg).network
        codes, labels = torch.randint(1024, (1, 64, 64, 1)), torch.randint(10, (64,))
        course = training.optimize(network, codes, labels, cfg, 3, amp=amp)
        losses[amp] = torch.stack([loss for _, _, loss in course])
    assert losses[True].dtype == torch.float32
    assert 0 < (losses[True] / losses[False] - 1).abs().max() < 1e-3


def test_rows_are_measured_and_not_run_again(run, tmp_path, capsys):
    rows = ("flows", "sizes", "--rows", "KL 32", "KL 8", "IBQ 512", *OPTIONS, "--out", tmp_path)
    assert run(*rows) == 0
    shown = capsys.readouterr()
    assert "flows-kl-8_seed0 is skipped: there is no trained codec kl-8_seed0" in shown.err
    (flow,), (codes,) = (tmp_path.glob(f"{name}*/log.jsonl") for name in ("flows", "sizes"))
    for log in (flow, codes):
        early, late = lines_of(log)
        assert (early["step"], late["step"], late["samples"]) == (2, 4, 20)
        assert 0 < early["floor"] == late["floor"] != late["distance"] > 0
        assert early["codec_floor"] > 0 and early["codec_distance"] > 0
        assert 0 < late["own_distance"] != late["distance"]
        assert "draw_ms" not in early and 0 < late["draw_ms"] < 1000 * late["measure_s"]
        assert 0 < late["draw_cpu_ms"]
        with Image.open(log.with_name("samples.png")) as sheet:
            assert sheet.size == (20 * 66 + 2, 2 * 66 + 2)
        assert late["nearest"] > 0 and late["nearest_test"] == early["nearest_test"] > 0
    early, late = lines_of(codes)
    assert early["loss"] == pytest.approx(math.log(512), abs=0.05)  # a new network
    assert early["bits"] == pytest.approx(9, abs=0.1) and 0 < early["unigram_bits"] <= 9
    assert len(lines_of(flow)[-1]["cknna"]) == 2
    for log in (flow, codes):
        model = load_model([log.with_name(name) for name in ("config.py", "model.pth")])
        assert isinstance(model, TileGenerator)
    with (tmp_path / "table.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"] * 2
    table = (tmp_path / "table.md").read_text()
    assert table == shown.out[shown.out.index("| table") :].rstrip("\n") + "\n"
    assert "| at 2 | at 4 |" in table and "| flows | KL 32 | 0 |" in table
    before = codes.stat().st_mtime_ns
    assert run(*rows) == 0 and codes.stat().st_mtime_ns == before


def test_codes_of_a_sequence_are_packed_as_expected(run, tool, tmp_path, monkeypatch):
    pytest.importorskip("constriction", reason="the codecs extra is not installed")
    monkeypatch.setattr(tool, "PACKED_TILES", 8)
    rows = ["depths", "--rows", "RQ depth 2, flat", *OPTIONS, "--out", tmp_path]
    rows[rows.index("--packed") + 1] = "20"
    assert run(*rows) == 0
    (log,) = tmp_path.glob("depths*/log.jsonl")
    early, late = lines_of(log)
    assert "packed_bytes" not in early and late["packed_tiles"] == 20
    # 128 codes of about 10 bits, and three blocks with up to 4 bytes to fill and an index of 12
    assert late["packed_expected_bytes"] == pytest.approx(160, rel=0.02)
    more = late["packed_bytes"] - late["packed_expected_bytes"]
    assert 3 * 12 / 20 <= more <= 3 * 18 / 20
    assert 0 < late["packed_table_bytes"] < 160  # few codes of random tiles, by a random codec
    assert late["network_bytes"] == 4 * late["parameters"]
    cells = [f"{late[f'packed{name}_bytes']:.1f}" for name in ("", "_expected", "_table")]
    assert f"| {' | '.join(cells)} | " in (tmp_path / "table.md").read_text()


def test_steps_to_a_distance_are_compared_seed_by_seed(tool):
    def course(row, seed, **distances):
        line = dict(table="flows", row=row, seed=seed, bits=1.0)
        line |= {f"{name}{level}": 1.0 for name in ("distance", "own_distance")
                 for level in ("", "_classifier")}  # fmt: skip
        steps = zip((100, 200), zip(*distances.values(), strict=True), strict=True)
        return [
            line | dict(zip(distances, values, strict=True), step=step) for step, values in steps
        ]

    runs = [course("KL 8", 0, distance=(9, 6), own_distance=(5, 4))]
    runs.append(course("VA-VAE 8", 0, distance=(8, 4), own_distance=(4, 3)))
    runs.append(course("VA-VAE 8", 1, distance=(8, 4), own_distance=(5, 5)))
    last = tool._means(runs).splitlines()[-1]
    # Halfway from 8 to 4, which is at 141 steps; and 1.0 of all other measures is reached at once.
    assert last.endswith("| 1.41 / 2.00 or more | 2.00 or more / 2.00 or more |")
    runs = [runs[0], course("VA-VAE 8", 0, distance=(8, 7), own_distance=(6, 3))]
    assert tool._means(runs).splitlines()[-1].split("|")[-3:-1] == [
        " less than 1 / 2.00 or more ", " 1.26 / 2.00 or more "]  # fmt: skip


def test_a_flow_is_drawn_towards_features_and_its_blocks_are_measured(run, tmp_path):
    own = ("model.frozen.weights=None", "model.network.alignment.block=0")
    row = "KL 32, aligned flow"
    assert run("joint", "--rows", row, *OPTIONS, *own, "--out", tmp_path) == 0
    (log,) = tmp_path.glob("joint*/log.jsonl")
    early, late = lines_of(log)
    assert len(early["cknna"]) == len(early["cknna_finer"]) == 2
    assert 3 < early["loss"] < 4  # 2 + 1 of a new flow, and half of one minus a cosine
    text = (tmp_path / "table.md").read_text()
    second = text[text.index("| table | row | seed | step | level | block 0 | block 1 |") :]
    values = [f"{value:.3f}" for value in (*late["cknna_finer"], late["cknna_finer_permuted"])]
    assert f"| joint | {row} | 0 | 4 | finer | {' | '.join(values)} |" in second
    assert second.count("\n") == 2 + 2 * 3


def test_features_are_turned_as_images_are(training):
    maps, chosen = torch.randn(8, 3, 4, 4), list(views(square=True))
    found = training.turned(maps, torch.arange(8), 8)
    for row, view in enumerate(chosen):
        assert torch.equal(found[row], apply_view(maps[row], view))


def test_an_interrupted_run_starts_anew_unless_it_is_another_process(run, tmp_path):
    rows = ("sizes", "--rows", "IBQ 512", *OPTIONS, "--out", tmp_path)
    folder = tmp_path / "sizes-ibq-512_seed0"
    folder.mkdir()
    log = folder / "log.jsonl"
    log.write_text('{"half a line')
    with FileLock(folder / "lock"):
        assert run(*rows) == 0
    assert log.read_text() == '{"half a line'
    assert run(*rows, "--minutes", "0") == 0
    assert log.read_text() == '{"half a line'
    assert run(*rows) == 0
    assert [line["step"] for line in lines_of(log)] == [2, 4]


def test_a_failing_row_is_said_and_counted(run, tmp_path, capsys):
    rows = ("sizes", "--rows", "IBQ 512", *OPTIONS, "model.network.num_heads=3", "--out", tmp_path)
    assert run(*rows) == 1
    assert "sizes-ibq-512_seed0 failed: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("sizes", "--rows", "IBQ 7", "--out", tmp_path)
    assert "'IBQ 7' is in none of the tables" in capsys.readouterr().err


def test_tiles_alternate_and_draws_depend_on_the_seed(tool, folder, eurosat_tiles):
    tiles = tool.Tiles(eurosat_tiles, "train", 20, "cpu")
    assert sorted(tiles.labels[:10].tolist()) == list(range(10))
    level = tiles.images.float().mean(dim=(1, 2, 3))
    assert ((level - 20 * tiles.labels - 20).abs() < 5).all()  # each image has its own label
    args = tool.parse_args(["sizes", "--codecs", str(folder / "codecs")])
    generator = build_model(tool.read_row(tool.Job("sizes", "IBQ 512", 0), args))
    generator.init_weights()
    generator.eval()
    first, again, other = (tool.draw(generator, tiles.labels[:2], seed) for seed in (0, 0, 1))
    assert first.dtype == torch.uint8 and first.shape == (2, 3, 64, 64)
    assert torch.equal(first, again) and not torch.equal(first, other)
