"""What is told of long work where there is no terminal."""

from __future__ import annotations

import pytest

from apex_cli.commands import _progress, _ui
from apex_cli.records import Progress


@pytest.fixture(autouse=True)
def console():
    _ui.stderr.cache_clear()
    yield
    _ui.stderr.cache_clear()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.005, (1, 100)), (0.03, (1, 35, 69, 100)), (0.5, (1, *range(10, 101, 10)))],
)
def test_tenths_are_told_where_they_take_their_time(seconds, told, capsys, monkeypatch):
    """Two phases of a hundred events, `seconds` apart; each begins and ends with a line."""
    now = [1e3]
    monkeypatch.setattr(_progress, "monotonic", lambda: now[0])

    def events():
        for phase in ("measure a", "measure b"):
            for done in range(1, 101):
                now[0] += seconds
                yield Progress(phase, done, 100)

    _progress.show(events())
    lines = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [f"{phase} {done}/100" for phase in ("measure a", "measure b") for done in told]


def test_the_time_left_is_told(capsys, monkeypatch):
    now = [1e3]
    monkeypatch.setattr(_progress, "monotonic", lambda: now[0])

    def events():
        for done in range(0, 101, 10):
            yield Progress("draw", done, 100)
            now[0] += 20
        yield "made"

    assert list(_progress.drawn(events(), "mine")) == ["made"]
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert (first, second, last) == ("mine · draw 0/100", "mine · draw 10/100, 0:03:00 left", "mine · draw 100/100")
