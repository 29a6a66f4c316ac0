"""The two kinds of errors that end an entry point with one line, and the hint that many of them give.

CannotStart   the input is wrong: exit code 2, nothing was trained
├─ SettingsError, DataError, CheckpointError, StudyError
Failed        something went wrong on the way: exit code 1, finished work is kept
└─ TrackingError, TrainingDiverged, ProcessLost
"""

import difflib
from collections.abc import Sequence


class CannotStart(Exception):
    """Settings, data or files do not allow the work to start; each line of the message names one problem."""


class Failed(Exception):
    """The work started but could not be finished; the message is one line."""


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A suggestion such as `; did you mean 'cutout'?`; empty if no word in `known` is similar, whatever the case."""
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean {lower[near[0]]!r}?" if near else ""
