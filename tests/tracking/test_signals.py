"""A request to end is an exception at the current line, except where that line must not be interrupted."""

import os
import signal

import pytest

from experiments.tracking.signals import Terminated, delayed_signals, raise_if_asked, terminated_by_signal


def asked_in_two_blocks(number: int, done: list[str]) -> None:
    with delayed_signals():
        with delayed_signals():
            os.kill(os.getpid(), number)
            done.append("inner")
        done.append("outer")
    done.append("behind")


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.usefixtures("hears_ctrl_c")
def test_a_delayed_request_raises_once_at_the_end_of_the_outer_block(number: int, error: type[BaseException]) -> None:
    done: list[str] = []
    with terminated_by_signal():
        with pytest.raises(error):
            asked_in_two_blocks(number, done)
        with delayed_signals():
            done.append("the cleaning after it")
        with pytest.raises(error):  # whoever asks, hears of it again
            raise_if_asked()
    assert done == ["inner", "outer", "the cleaning after it"]
    raise_if_asked()  # it is forgotten where nobody handles signals


def test_without_delay_it_raises_at_once() -> None:
    with terminated_by_signal(), pytest.raises(Terminated, match="143"):
        os.kill(os.getpid(), signal.SIGTERM)


def failing_when_asked() -> None:
    with delayed_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("of the block")


def test_an_error_in_the_block_comes_first() -> None:
    with terminated_by_signal():
        with pytest.raises(ValueError, match="of the block"):
            failing_when_asked()
        with pytest.raises(Terminated), delayed_signals():
            pass
