"""Any name is shown as it is, whatever its characters mean elsewhere; a picture that fails leaves its error."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from cam_core.text import legible
from experiments.pictures import sheets, style
from experiments.pictures.sheets import confusion, curves
from experiments.pictures.style import drawn_or_explained, take_failures
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


def test_characters_without_a_look_are_escapes_and_others_stay() -> None:
    assert legible("naïve café ± שלום ✓ e\u0301") == "naïve café ± שלום ✓ e\u0301"
    assert legible("猫🦊\x07\u202e\ud800\t.") == r"\u732b\U0001f98a\x07\u202e\ud800 ."


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
