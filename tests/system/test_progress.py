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
        reporter.say("done")
    # 50 of 200 steps in 10 s: the other 150 take 30 s.
    assert capsys.readouterr().out.splitlines() == ["cutout, seed 0: 25%, about 30 s left", "done"]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.shown(4) as reporter:
        reporter.stage("baseline")
        reporter.advance(4)
    shown = capsys.readouterr().out
    assert "baseline" in shown
    assert "4/4" in shown
    assert "left:" in shown
