"""The two kinds of errors that end an entry point with one line for each problem, and texts that fit into a line.

CannotStart   the input is wrong: exit code 2, nothing was trained
├─ SettingsError, DataError, CheckpointError, StudyError
Failed        something went wrong on the way: exit code 1, finished work is kept
└─ TrackingError, StudyStopped, TrainingDiverged, ProcessLost
"""

import difflib
import unicodedata
from collections.abc import Sequence


class Problems(Exception):
    """Ends an entry point. Each argument is one problem; it is kept as one line that shows control characters."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*map(visible, problems))

    def __str__(self) -> str:
        return "\n".join(self.problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems, one line each."""
        return self.args


class CannotStart(Problems):
    """Settings, data or files do not allow the work to start; each line of the message names one problem."""


class Failed(Problems):
    """The work started but could not be finished; the message is one line."""


def memory_problem(error: BaseException) -> str:
    """A line with the cure if there was not enough memory, on the machine or on its GPU; otherwise empty."""
    signs = ("allocate memory", "out of memory", "bad_alloc")  # of torch, which raises RuntimeError
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    ):
        return "out of memory; give a smaller batch_size or image_size, or end other programs that use memory"
    return ""


def visible(text: str) -> str:
    r"""The text in one line: control characters, among them line breaks, as escapes such as `\n`.

    Also escaped are characters that change the direction of the text around them, and bytes of file names that are not
    UTF-8.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    hidden = unicodedata.category(character)[0] == "C" or character in "\u2028\u2029"
    return character.encode("unicode_escape").decode() if hidden and character not in _JOINERS else character


_JOINERS = "\u200c\u200d"  # parts of words in several alphabets, and of emoji


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A suggestion such as `; did you mean 'cutout'?`; empty if no word in `known` is similar, whatever the case."""
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean {lower[near[0]]!r}?" if near else ""
