"""Any name is shown as it is, whatever its characters mean elsewhere; a picture that fails leaves its error."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.font_manager
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from cam_core import text
from cam_core.text import INK, legible, written
from experiments.pictures import sheets, style
from experiments.pictures.sheets import confusion, curves
from experiments.pictures.style import drawn_or_explained, take_failures
from experiments.runs.prepare import load_dataset
from experiments.settings.train import TrainSettings
from experiments.system.progress import Reporter
from experiments.training.predictions import Predictions

NAMES = (
    *("$", "$$", "$x$", r"\frac{", "a_b", "a^b", "{", "}", "100 %", "<b>&amp;", "'\"`", "_hidden", r"\$", "Cat", "cat"),
    *("😀", "🦊", "猫", "שלום", "مرحبا", "a\tb\nc", "\x07\x1b[31m", "\u202eabc", "\ud800", "e\u0301", " ", ""),
    "x" * 300,
    "many words " * 30,
)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn."""
    seen: list[Figure] = []

    def remembering(figure: Figure) -> FigureCanvasAgg:
        seen.append(figure)
        return FigureCanvasAgg(figure)

    monkeypatch.setattr(style, "FigureCanvasAgg", remembering)
    return seen


@pytest.fixture
def machine_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The only fonts of the machine: none, until a test adds some."""
    found: list[str] = []
    monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", lambda: found)
    for cached in (text.font_file, text._fonts_of_machine):
        cached.cache_clear()
    monkeypatch.setattr(text, "fonts_needed", {})
    monkeypatch.setattr(style, "fonts_needed", text.fonts_needed)
    yield found
    for cached in (text.font_file, text._fonts_of_machine):
        cached.cache_clear()


def squares(path: Path, characters: str) -> str:
    """A font in which each of these characters is a black square, one em wide and four fifths of it high."""
    pen = TTGlyphPen(None)
    for corner, draw in zip(((0, 0), (0, 800), (1000, 800), (1000, 0)), (pen.moveTo, *[pen.lineTo] * 3), strict=True):
        draw(corner)
    pen.closePath()
    square, empty = pen.glyph(), TTGlyphPen(None).glyph()
    built = FontBuilder(1000)
    built.setupGlyphOrder([".notdef", "square"])
    built.setupCharacterMap(dict.fromkeys(map(ord, characters), "square"))
    built.setupGlyf({".notdef": empty, "square": square})
    built.setupHorizontalMetrics({".notdef": (500, 0), "square": (1000, 0)})
    built.setupHorizontalHeader(ascent=1000, descent=0)
    built.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    built.setupOS2()
    built.setupPost()
    built.save(path)
    return str(path)


def shown(figure: Figure) -> list[str]:
    return ["".join(text.get_text().split()) for text in figure.findobj(Text)]


def test_a_confusion_matrix_shows_the_names_of_its_classes(figures: list[Figure]) -> None:
    confusion(np.ones((len(NAMES), len(NAMES)), np.int64), NAMES)
    texts = shown(figures[0])
    for name in NAMES:
        whole = "".join(legible(name).split())
        assert len(name) > 100 or sum(text == whole for text in texts) >= 2, name
    assert {text for text in texts if "…" in text} == {f"{'x' * 21}…{'x' * 6}", "manywordsmanywords…manywordsmanywords"}


def test_curves_show_the_name_of_the_run(figures: list[Figure]) -> None:
    history = pd.DataFrame({"train/loss": [2.0, 1.0]}, index=pd.Index([1, 2], name="epoch"))
    curves(history, "\n".join(NAMES))
    assert "".join(legible(" ".join(NAMES)).split()) in shown(figures[-1])


def test_what_a_dollar_sign_starts_is_no_formula() -> None:
    """Two names that matplotlib would show alike, and one that it cannot read as a formula."""
    pictures = [confusion(np.eye(2, dtype=np.int64), (name, "b")) for name in ("$a$", "a", r"$\frac{$")]
    assert not np.array_equal(pictures[0], pictures[1])


def pages(names: Sequence[str]) -> np.ndarray:
    images = np.zeros((len(names), 16, 16, 3), np.uint8)
    maps = np.ones((1, len(names), 16, 16), np.float32)
    predictions = Predictions(np.eye(len(names), dtype=np.float32), np.arange(len(names)))
    said = sheets.verdicts(predictions, np.arange(len(names)), names)
    return sheets.layer_sheet(images, maps, ("stem",), np.arange(len(names)), said, names, " ".join(names))


def test_pages_of_maps_show_the_names_of_their_classes() -> None:
    assert pages(NAMES).shape[0] > 16 * len(NAMES)
    for one, other in (("猫", "犬"), ("\x07", "\x08"), ("🦊", "🦉"), ("$a$", "a")):
        assert pages((one,)).shape != pages((other,)).shape or not np.array_equal(pages((one,)), pages((other,)))


def test_characters_without_a_look_are_escapes_and_others_stay(machine_fonts: list[str]) -> None:
    assert legible("naïve café ± שלום ✓ e\u0301 می\u200cخواهم") == "naïve café ± שלום ✓ e\u0301 می\u200cخواهم"
    assert legible("猫🦊\x07\u202e\ud800\t.") == r"\u732b\U0001f98a\x07\u202e\ud800 ."


def test_a_font_of_the_machine_shows_what_dejavu_lacks(
    machine_fonts: list[str], figures: list[Figure], tmp_path: Path
) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    machine_fonts += [str(tmp_path / "broken.ttf"), squares(tmp_path / "Squares.ttf", "猫犬")]
    assert legible("a 猫 鳥") == r"a 猫 \u9ce5"
    block = written("a猫", 200, 20, align=0.0)
    black = (block == INK).all(2)
    assert black.sum() == 20 * 16 + (written("a", 200, 20, align=0.0) == INK).all(2).sum()
    confusion(np.eye(2, dtype=np.int64), ("猫", "a 犬"))  # a character without a glyph would be a warning
    assert {"猫", "a 犬"} <= {label.get_text() for label in figures[-1].findobj(Text)}
    assert style._families() == ["DejaVu Sans", "Squares"]


def test_classes_that_no_font_can_show_are_told_before_the_training(machine_fonts: list[str], tmp_path: Path) -> None:
    class Listener(Reporter):
        def say(self, line: str) -> None:
            said.append(line)

    for name in ("猫", "кошка"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((16, 16, 3), 80 * i, np.uint8)).save(tmp_path / "pets" / name / f"{i}.png")
    said: list[str] = []
    load_dataset(TrainSettings.of(dataset="folder:pets", image_size=16), Listener())
    assert said[-1].startswith(r"no font here has 猫: pictures show escapes such as \u732b;")
    machine_fonts.append(squares(tmp_path / "Squares.ttf", "猫"))
    for cached in (text.font_file, text._fonts_of_machine):
        cached.cache_clear()
    load_dataset(TrainSettings.of(dataset="folder:pets", image_size=16), Listener())
    assert said[-1].startswith("data set folder:pets")


def test_a_picture_that_fails_is_a_picture_of_its_error() -> None:
    def fail() -> np.ndarray:
        raise ValueError("no\nway $x$")

    assert np.array_equal(drawn_or_explained("a.png", lambda: np.zeros((1, 1, 3), np.uint8)), np.zeros((1, 1, 3)))
    picture = drawn_or_explained("b.png", fail)
    assert picture.ndim == 3
    assert (picture < 128).any()
    assert take_failures() == ["b.png could not be drawn (ValueError: no way $x$)"]
    assert take_failures() == []


def test_a_stop_is_no_failure_of_a_picture() -> None:
    def stop() -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn_or_explained("a.png", stop)
