"""Pages on which nothing overlaps or is cut off."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cam_core import Tile, colour_bar, enlarge, grid
from cam_core.page import _blocks
from cam_core.text import Font, font, legible, wrap, written

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from(" -_"), max_size=60)


def photo(height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def place(rows: Sequence[Sequence[Tile]], **options: object) -> list[tuple[int, int, np.ndarray]]:
    settings = {"row_labels": (), "column_labels": (), "title": "", "footer": "", "bar": None, "tile_size": 160}
    blocks = _blocks(rows, **settings | options)  # type: ignore[arg-type]
    return [(block.x, block.y, block.pixels) for block in blocks]


def tiles(rows: int, columns: int, caption: str, size: tuple[int, int] = (8, 8)) -> list[list[Tile]]:
    verdicts = ("right", "wrong", "none")
    return [[Tile(photo(*size), caption, verdicts[(r + c) % 3]) for c in range(columns)] for r in range(rows)]


@pytest.mark.slow
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 10),
    texts=st.tuples(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    tile_size=st.integers(16, 96),
    bar=st.booleans(),
)
def test_nothing_overlaps_and_all_is_on_the_page(
    rows: int, columns: int, texts: tuple[str, ...], size: tuple[int, int], tile_size: int, bar: bool
) -> None:
    caption, row_label, column_label, title, footer = texts
    page_tiles = tiles(rows, columns, caption, size)
    options = {
        "row_labels": [row_label] * rows,
        "column_labels": [column_label] * columns,
        "title": title,
        "footer": footer,
        "bar": colour_bar(110) if bar else None,
        "tile_size": tile_size,
    }
    page = grid(page_tiles, **options)
    used = np.zeros(page.shape[:2], int)
    for x, y, pixels in place(page_tiles, **options):
        assert x >= 0
        assert y >= 0
        assert y + len(pixels) <= len(page)
        assert x + pixels.shape[1] <= page.shape[1]
        used[y : y + len(pixels), x : x + pixels.shape[1]] += 1
        assert np.array_equal(page[y : y + len(pixels), x : x + pixels.shape[1]], pixels)
    assert used.max() == 1
    assert (page[used == 0] == 255).all()


@given(text=TEXTS, width=st.integers(40, 200), size=st.sampled_from([13, 14, 20]))
def test_text_keeps_all_its_characters_within_the_width(text: str, width: int, size: int) -> None:
    face = font(size)
    lines = wrap(text, face, width)
    assert "".join("".join(lines).split()) == "".join(legible(text).split())
    assert all(len(line) == 1 or face.getlength(line) <= width for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        "automobile",
        "a very long class name of a folder data set",
        "Wüstenspringmausgehege",
        "черепаха",
        "jumping, gypsy",
    ],
)
@pytest.mark.parametrize("width", [60, 104, 168])
def test_no_ink_is_cut_off(text: str, width: int) -> None:
    block = written(text, width, 13)
    for border in (block[0], block[-1], block[:, 0], block[:, -1]):
        assert (border == 255).all()
    assert block.min() < 100


def test_words_break_at_joints_before_they_break_anywhere() -> None:
    face = font(13)
    width = int(face.getlength("resnet18_one"))
    assert wrap("resnet18_onecycle", face, width) == ["resnet18_", "onecycle"]
    assert wrap("a\nb c", face, 100) == ["a", "b c"]
    assert wrap("", face, 100) == []


@pytest.mark.parametrize(("size", "tile_size", "factor"), [((32, 32), 160, 5), ((32, 32), 100, 3), ((64, 40), 160, 2)])
def test_a_tile_is_the_image_enlarged_pixel_by_pixel(size: tuple[int, int], tile_size: int, factor: int) -> None:
    image = photo(*size)
    ((_, _, framed), *_) = place([[Tile(image, "cat", "right")]], tile_size=tile_size)
    assert np.array_equal(framed[4:-4, 4:-4], enlarge(image, factor))
    assert (framed[0] == (0, 114, 86)).all()


def test_a_larger_image_is_shrunk_by_averaging() -> None:
    image = np.zeros((320, 200, 3), np.uint8)
    image[::2] = 200
    ((_, _, framed), *_) = place([[Tile(image)]], tile_size=160)
    assert framed.shape == (168, 108, 3)
    assert (framed[4:-4, 4:-4] == 100).all()


def test_right_and_wrong_differ_in_symbol_and_not_in_colour_alone() -> None:
    blocks = [place([[Tile(photo(), "cat", verdict)]])[1][2] for verdict in ("right", "wrong")]
    ink = [block.min(axis=2) < 200 for block in blocks]
    assert ink[0].shape == ink[1].shape
    assert (ink[0] != ink[1]).any()


def test_rows_may_differ_in_length_and_need_no_text() -> None:
    page = grid([[Tile(photo())] * 3, [Tile(photo())]])
    assert page.shape[2] == 3
    assert (page[:10] == 255).all()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "rows must contain at least one row"),
        ([[]], {}, "rows must contain at least one row and no empty row"),
        ([[Tile(photo())]], {"row_labels": ["a", "b"]}, "row_labels has 2 texts for 1 rows"),
        ([[Tile(photo())] * 3], {"column_labels": ["a"]}, "column_labels has 1 texts for 3 columns"),
        ([[Tile(photo())]], {"tile_size": 8}, "tile_size must be at least 16 pixels, got 8"),
    ],
)
def test_impossible_pages(rows: list[list[Tile]], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(rows, **options)


def test_a_very_long_word_is_measured_a_few_times_for_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(Font, "getlength", lambda self, text: measured.append(len(text)) or float(10 * len(text)))
    assert wrap("x" * 3000, font(14), 100) == ["x" * 10] * 300
    assert len(measured) < 300 * 14  # 12 halvings of at most 3,000 letters, and whether it fits
