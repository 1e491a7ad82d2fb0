"""Pictures of tokens: what they say equals what the model's assignment says, counted here."""

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from hook.apis import load_model, show_attention, show_token_counts, show_tokens
from hook.errors import ConfigError, DataError
from hook.geo.styles import distinct_palette
from hook.inference.regions import RegionPredictor
from hook.inference.tokens import tokenize
from hook.tokenizers import token_map
from hook.visualization import tokens as token_pictures
from hook.visualization.drawing import outline_tokens


@pytest.fixture(scope="module")
def seg(seg_run):
    return load_model(seg_run)


@pytest.fixture(scope="module")
def cls(cls_run):
    return load_model(cls_run)


@pytest.fixture
def chip():
    """32 x 32 pixels in the units of the scenes."""
    rng = np.random.default_rng(0)
    truth = np.add.outer(np.arange(32), np.arange(32)) // 13 % 3
    return (truth * 80 + 40 + rng.integers(0, 20, (2, 32, 32))).astype(np.uint16)


@pytest.fixture
def small():
    """16 x 16 pixels for the classifier."""
    return np.random.default_rng(0).random((3, 16, 16), np.float32)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that pictures were made from."""
    figures, render = [], token_pictures.figure_to_rgb
    monkeypatch.setattr(
        token_pictures, "figure_to_rgb", lambda figure: (figures.append(figure), render(figure))[1]
    )
    return figures


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def legend(figure) -> dict[int, str]:
    """Share of each token, as the legend has it."""
    found = words(figure)
    start = found.index("Token")
    rows = [w for w in found[start:] if w.isdigit()]
    return {int(row): found[found.index(row, start) + 1] for row in rows}


def owners_of(model, image, num_tokens=None) -> np.ndarray:
    output = tokenize(model, image, num_tokens=num_tokens)
    return token_map(output.assignment, image.shape[1:])[0].numpy()


def test_tokens_of_a_segmentation(seg, chip, drawn):
    picture = show_tokens(seg, chip, metres_per_pixel=2.0)
    assert isinstance(picture, Image.Image) and picture.mode == "RGB"
    assert np.asarray(picture).dtype == np.uint8 and min(picture.size) > 500
    owners = owners_of(seg, chip)
    counted = {
        int(token): f"{100 * count / 1024:.1f} %"
        for token, count in zip(*np.unique(owners, return_counts=True), strict=True)
    }
    assert legend(drawn[0]) == counted
    # The class of most pixels, counted from the model's own scores.
    predictor = RegionPredictor(seg)
    scores = predictor(chip[None], np.ones((1, 32, 32), bool)).pixel_scores[0]
    said = words(drawn[0])
    for token in counted:
        pixels = np.bincount(scores.argmax(0)[owners == token], minlength=3)
        name = seg.dataset_meta["classes"][pixels.argmax()]
        row = said.index(str(token), said.index("Token"))
        assert said[row + 2] == f"{name} ({100 * pixels.max() / pixels.sum():.0f} %)"
    # 32 pixels of 2 m: a bar of 10 m.
    assert "10 m" in [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert "32 x 32 pixels" in said


def test_tokens_of_a_classification(cls, small, drawn):
    show_tokens(cls, small)
    said = words(drawn[0])
    with torch.no_grad():
        inputs = (torch.from_numpy(small)[None] - 0.5) / 0.3
        tokens = cls.backbone(inputs)[0]
        alone = cls.head(tokens[:, None]).softmax(1)
        whole = cls.head(tokens[None]).softmax(1)[0]
    names = cls.dataset_meta["classes"]
    answer = f"{names[int(whole.argmax())]} ({100 * float(whole.max()):.0f} %)"
    assert f"16 x 16 pixels; the model's answer: {answer}" in said
    for token in legend(drawn[0]):
        row = said.index(str(token), said.index("Token"))
        best = alone[token]
        assert said[row + 2] == f"{names[int(best.argmax())]} ({100 * float(best.max()):.0f} %)"
    # Nothing says how large its pixels are.
    assert not any(" m" in text.get_text() for axes in drawn[0].axes for text in axes.texts)


def test_a_head_on_the_class_token_says_nothing_of_tokens(cls, small, drawn, monkeypatch):
    monkeypatch.setattr(cls.head, "pooling", "cls_token")
    show_tokens(cls, small)
    assert "share" in words(drawn[0])
    assert not any("class of" in word for word in words(drawn[0]))


def test_a_file_gives_its_scale_and_its_pixels_without_data(seg, scenes, drawn):
    path = scenes / "images" / "third.tif"  # 20 x 30 pixels, smaller than the model's window
    show_tokens(seg, path)
    assert any(word.startswith("third.tif, 20 x 30 pixels") for word in words(drawn[0]))
    with rasterio.open(path) as source:
        values, valid = source.read([2, 1]), source.dataset_mask() > 0
    show_tokens(seg, values, valid=valid, metres_per_pixel=2.0)
    assert legend(drawn[0]) == legend(drawn[1])
    for figure in drawn:
        assert "10 m" in [text.get_text() for text in figure.axes[0].texts]


def test_a_token_keeps_its_colour(seg, chip):
    colours = distinct_palette(4)
    for number in (2, 4):
        picture = np.asarray(show_tokens(seg, chip, num_tokens=number)).reshape(-1, 3)
        owned = np.unique(owners_of(seg, chip, number))
        for token in owned:  # the swatch of the legend
            assert (picture == colours[token]).all(1).sum() > 50


def test_attention_of_a_token_and_of_the_owner_of_a_pixel(seg, chip, drawn):
    owners = owners_of(seg, chip)
    token = int(owners[9, 17])
    by_number = show_attention(seg, chip, token)
    by_pixel = show_attention(seg, chip, at=(9, 17))
    assert f"Where token {token} of 4 looks" in words(drawn[0])
    assert f"Where token {token} of 4 looks" in words(drawn[1])
    assert by_number.size == by_pixel.size
    share = f"{100 * (owners == token).mean():.1f} % of the picture"
    assert share in words(drawn[0])
    # The bar is in multiples of an even spread, from nothing to the largest.
    weights = tokenize(seg, chip).assignment[0, token].numpy()
    low, high = drawn[0].axes[2].get_ylim()
    assert low == 0 and high == pytest.approx(weights.max() * weights.size, rel=1e-4)
    assert "1x" in [label.get_text() for label in drawn[0].axes[2].get_yticklabels()] or high > 2


def test_attention_where_seeds_choose_tokens_is_a_share(seg, chip, drawn, monkeypatch):
    tokenizer = seg.backbone.tokenizer
    monkeypatch.setattr(tokenizer, "assign", "token")
    monkeypatch.setattr(tokenizer.vectorization, "assign", "token")
    show_attention(seg, chip, 0)
    bar = drawn[0].axes[2]
    assert bar.get_ylim() == (0, 1)
    assert [t.get_text() for t in bar.get_yticklabels()] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert "share of each place" in bar.get_ylabel()


def test_the_lit_region_holds_the_pixel_in_every_number_of_tokens(seg, chip, drawn, monkeypatch):
    lit = []
    monkeypatch.setattr(
        token_pictures,
        "highlight_token",
        lambda owners, image, token, **_: (lit.append((owners, token)), image)[1],
    )
    show_token_counts(seg, chip, (2, 3, 4), at=(20, 5))
    assert [w for w in words(drawn[0]) if w[:1].isdigit() and w.endswith(" tokens")] == [
        "2 tokens",
        "3 tokens",
        "4 tokens",
    ]
    for (owners, token), number in zip(lit, (2, 3, 4), strict=True):
        factor = owners.shape[0] // 32
        assert (owners[20 * factor : 21 * factor, 5 * factor : 6 * factor] == token).all()
        expected = owners_of(seg, chip, number)
        assert token == expected[20, 5]
        share = f"token {token}, {100 * (expected == token).mean():.1f} %"
        assert share in words(drawn[0])


def test_all_numbers_of_tokens_by_default(seg, chip, drawn, monkeypatch):
    seen = []
    monkeypatch.setattr(
        token_pictures,
        "outline_tokens",
        lambda owners, image, *a, **k: (seen.append(owners), outline_tokens(owners, image))[1],
    )
    show_token_counts(seg, chip)
    assert [w for w in words(drawn[0]) if w[:1].isdigit() and w.endswith(" tokens")] == [
        "2 tokens",
        "4 tokens",
    ]
    assert any("trained with all its 4 tokens" in word for word in words(drawn[0]))
    for owners, number in zip(seen, (2, 4), strict=True):
        factor = owners.shape[0] // 32
        assert np.array_equal(owners[::factor, ::factor], owners_of(seg, chip, number))


def test_files_are_written_once(seg, chip, tmp_path):
    path = tmp_path / "tokens.png"
    picture = show_tokens(seg, chip, path=path)
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture))
    before = path.read_bytes()
    for show in (show_tokens, show_attention, show_token_counts):
        with pytest.raises(ConfigError, match="exists already"):
            show(seg, chip, path=path)
    assert path.read_bytes() == before
    show_attention(seg, chip, 1, path=path, overwrite=True)
    assert path.read_bytes() != before
    assert [f.name for f in path.parent.iterdir()] == ["tokens.png"]


def test_words_stay_on_the_page_and_apart(seg, chip, drawn):
    """No two texts of a picture overlap, whatever its shape."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    tall, wide = chip[:, :, :8], chip[:, :8]
    for image in (chip, tall, wide):
        show_tokens(seg, image, metres_per_pixel=1)
        show_attention(seg, image, at=(4, 4), metres_per_pixel=1)
        show_token_counts(seg, image, (2, 4), at=(4, 4), metres_per_pixel=1)
    for figure in drawn:
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [t.get_window_extent(renderer) for t in figure.texts if t.get_text()]
        width, height = figure.get_size_inches() * figure.dpi
        for k, box in enumerate(boxes):
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
            for other in boxes[k + 1 :]:
                assert not box.overlaps(other)
        (bar,) = (t for t in figure.axes[0].texts if t.get_text().endswith(" m"))
        box, frame = bar.get_window_extent(renderer), figure.axes[0].bbox
        assert box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1


@pytest.mark.parametrize("token", [-1, 4, 99])
def test_a_token_out_of_range(seg, chip, token):
    with pytest.raises(ConfigError, match=r"(?s)no such token.*0 to 3"):
        show_attention(seg, chip, token)


@pytest.mark.parametrize("at", [(-1, 0), (0, 32), (32, 0)])
def test_a_pixel_outside(seg, chip, at):
    with pytest.raises(DataError, match="outside the image"):
        show_attention(seg, chip, at=at)
    with pytest.raises(DataError, match="outside the image"):
        show_token_counts(seg, chip, (2,), at=at)


def test_a_pixel_without_data(seg, chip):
    valid = np.ones((32, 32), bool)
    valid[3, 3] = False
    with pytest.raises(DataError, match="no data"):
        show_attention(seg, chip, at=(3, 3), valid=valid)


def test_one_token_is_chosen_one_way(seg, chip):
    for options in ({}, {"token": 1, "at": (0, 0)}):
        with pytest.raises(ConfigError, match="one token is to be shown"):
            show_attention(seg, chip, **options)


def test_numbers_of_tokens_that_cannot_be(seg, chip):
    with pytest.raises(ConfigError, match="1 to 4 tokens"):
        show_token_counts(seg, chip, (2, 5))
    with pytest.raises(ConfigError, match="no number of tokens"):
        show_token_counts(seg, chip, ())


@pytest.mark.parametrize(
    ("image", "valid", "says"),
    [
        (np.zeros((3, 32, 32)), None, "does not fit the model"),
        (np.zeros((32, 32)), None, "does not fit the model"),
        (np.zeros((2, 2, 2)), None, "does not fit the model"),
        (np.zeros((2, 32, 32)), np.zeros((32, 32)), "validity of its pixels"),
        (np.zeros((2, 32, 32)), np.ones((32, 31)), "validity of its pixels"),
    ],
)
def test_images_that_do_not_fit(seg, image, valid, says):
    with pytest.raises(DataError, match=says):
        show_tokens(seg, image, valid=valid)


def test_a_file_has_its_own_validity(seg, scenes):
    with pytest.raises(ConfigError, match="valid is for NumPy arrays only"):
        show_tokens(seg, scenes / "images" / "third.tif", valid=np.ones((20, 30)))
    with pytest.raises(DataError, match="cannot be read"):
        show_tokens(seg, scenes / "nowhere.tif")


def test_models_without_tokens_or_without_regions(seg, chip):
    from hook.tokenizers import PatchEmbedTokenizer

    class Bare(torch.nn.Module):
        backbone = torch.nn.Identity()

    for show in (show_tokens, show_token_counts):
        with pytest.raises(ConfigError, match="Identity has no tokens"):
            show(Bare(), chip)
    usual = seg.backbone.tokenizer
    seg.backbone.tokenizer = PatchEmbedTokenizer(32, 16, 2, 16)
    try:
        with pytest.raises(ConfigError, match="squares"):
            show_attention(seg, chip, 0)
    finally:
        seg.backbone.tokenizer = usual


# ------------------------------------------------------------------------- arguments of wrong types
SHOW = {
    show_tokens: {},
    show_attention: dict(token=0),
    show_token_counts: dict(counts=(2,)),
}


@pytest.fixture
def untouched(monkeypatch):
    """The model may not run."""
    monkeypatch.setattr(token_pictures, "_token_view", lambda *_: pytest.fail("the model ran"))


@pytest.mark.parametrize("show", SHOW)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.xyz", "name it a.png"),
        ("none", "name it none.png"),
        ("nowhere/a.png", "create the folder"),
        ("file/a.png", "create the folder"),
        ("folder.png", "is a folder"),
    ],
)
def test_pictures_that_cannot_be_written(seg, chip, tmp_path, untouched, show, name, says):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match="path=") as caught:
        show(seg, chip, path=tmp_path / name, **SHOW[show])
    assert says in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize("show", SHOW)
@pytest.mark.parametrize(
    "options",
    [
        dict(metres_per_pixel="x"),
        dict(metres_per_pixel=-1),
        dict(metres_per_pixel=float("nan")),
        dict(path=3),
    ],
)
def test_wrong_options_of_all_pictures(seg, chip, untouched, show, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        show(seg, chip, **SHOW[show], **options)


@pytest.mark.parametrize(
    ("show", "options"),
    [
        (show_tokens, dict(num_tokens="a")),
        (show_tokens, dict(num_tokens=2.5)),
        (show_attention, dict(num_tokens="a", token=0)),
        (show_attention, dict(token="a")),
        (show_attention, dict(token=1.5)),
        (show_attention, dict(token=True)),
        (show_token_counts, dict(counts=["a"])),
        (show_token_counts, dict(counts=3)),
        (show_token_counts, dict(counts="24")),
        *(
            (show, dict(at=at))
            for show in (show_attention, show_token_counts)
            for at in [(1,), "x", 3, (1, 2, 3), ("a", "b"), (1.5, 2)]
        ),
    ],
)
def test_wrong_options_of_one_picture(seg, chip, untouched, show, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        show(seg, chip, **options)


def test_what_is_no_model_and_no_image(seg, chip):
    with pytest.raises(ConfigError, match="no model 'a model'"):
        show_tokens("a model", chip)
    with pytest.raises(DataError, match="does not fit the model"):
        show_tokens(seg, None)
