"""Long work tells the time left."""

import pytest

from experiments.system import progress


def test_lines_tell_share_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.shown(200) as reporter:  # under pytest there is no terminal
        reporter.stage("cutout, seed 0")
        now[0] = 105.0
        reporter.advance(30)  # too soon for a line
        now[0] = 110.0
        reporter.advance(20)
        reporter.stage("")
        now[0] = 120.0
        reporter.advance(50)
        reporter.say("done")
    # 50 of 200 steps in 10 s: the other 150 take 30 s.
    assert capsys.readouterr().out.splitlines() == [
        "cutout, seed 0: 25%, about 30 s left",
        "50%, about 20 s left",
        "done",
    ]


def on_terminal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Makes the output a terminal that can move its cursor."""
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    for name, value in ({"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"} | variables).items():
        monkeypatch.setenv(name, value)


def test_a_narrow_terminal_gets_what_matters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_terminal(monkeypatch, COLUMNS="40")
    with progress.shown(4) as reporter:
        reporter.stage("baseline, seed 0")
        reporter.advance(4)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("baseline, seed 0", "4/4", "0:00:00"))
    assert "left:" not in shown


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_terminal(monkeypatch, TERM="dumb")
    with progress.shown(4) as reporter:
        reporter.advance(4)
        reporter.say("done")
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_any_name_is_printed_as_it_is_in_one_line(
    term: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_terminal(monkeypatch, TERM=term)
    with progress.shown(4) as reporter:
        reporter.stage("[red]:cat:[/nothing]")
        reporter.say("[bold]:cat: a\nb\x1b[31m")
    shown = capsys.readouterr().out
    assert "[bold]:cat: a\\nb\\x1b[31m" in shown
    assert term == "dumb" or "[red]:cat:[/nothing]" in shown


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    on_terminal(monkeypatch)
    with progress.shown(4) as reporter:
        reporter.stage("baseline")
        reporter.advance(4)
    shown = capsys.readouterr().out
    assert "baseline" in shown
    assert "4/4" in shown
    assert "left:" in shown


@pytest.mark.parametrize(("given", "width"), [("40", 40), ("9" * 5000, 80), ("²", 80), ("-1", 80), ("99999", 1000)])
def test_any_width_of_a_terminal_is_taken(given: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", given)
    monkeypatch.setenv("LINES", given)
    assert progress.console().width == width
