"""The sender of this process: one thread passes journals on to MLflow, so that nothing else waits for it.

MLflow has asynchronous logging of its own (`synchronous=False`). It is not used, because it keeps its queue in memory:
a process that dies loses it. It has no queue for the creation and the end of a run, files of a folder and models, it
gives up after some retries, and nothing can be sent by a later process.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable

from . import outbox
from .journal import remove_leftovers
from .sending import Away, NotYet, Sending

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
CLOSE_S = 5.0  # how long the end waits for the entry that is being sent
SEND = "python -m experiments.tracking send"


class Sender:
    """Sends journals until the process ends. `away` is why MLflow takes nothing now; empty if it does."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.away = ""
        self.on_sent: Callable[[Sending], None] = lambda sending: None
        self._changed = threading.Condition()
        self._sendings: dict[str, Sending] = {}
        self._working = threading.Lock()  # held while entries are sent
        self._left = 0  # rounds asked for
        self._done = 0  # rounds done with nothing left
        self._closed = False
        self._thread: threading.Thread | None = None

    def begin(self, sending: Sending) -> None:
        """Takes a new journal and sends its first entry now, if MLflow answers, so that its run has its id."""
        if not self.away:
            with self._working:
                try:
                    sending.step()
                except Away as error:
                    self._lost(str(error))
        self.take(sending)

    def take(self, sending: Sending) -> bool:
        """Sends this journal too, from now on; False if another process sends it."""
        try:
            sending.journal.sending.acquire(timeout=0)
        except TimeoutError:
            return False
        self._sendings[sending.journal.key] = sending
        self.wake()
        return True

    def wake(self) -> None:
        """There is something to send."""
        with self._changed:
            self._left += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sender to MLflow", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, patience: float = 0.0) -> bool:
        """Waits until everything is sent; returns False if MLflow is away for `patience` seconds."""
        given_up = time.monotonic() + patience
        with self._changed:
            asked = self._left
            while self._done < asked:
                if self.away and time.monotonic() >= given_up:
                    return False
                self._changed.wait(0.5)
        return True

    def close(self) -> None:
        """Ends the thread. What is not sent stays in the outbox."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:  # an entry that is on its way must not be sent by the next sender too
            self._thread.join(CLOSE_S)
        for key in list(self._sendings):
            self._drop(key)

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        while (asked := self._next()) and not self._closed:
            try:
                with self._working:
                    self._round()
            except Away as error:
                self._lost(str(error))
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause = FIRST_PAUSE_S
            self._answered()
            with self._changed:
                self._done = asked
                self._changed.notify_all()

    def _next(self) -> int:
        """Waits until there is something to send; returns how often it was said so far."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._done < self._left)
            return self._left

    def _rest(self, pause: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, pause)

    def _round(self) -> None:
        """Sends what there is: first all beginnings, so that every run has its id when another one names it."""
        waits: NotYet | None = None
        moved = False
        for whole in (False, True):
            for sending in list(self._sendings.values()):
                before = sending.offset
                try:
                    self._send(sending, whole=whole)
                except NotYet as error:
                    waits = waits or error
                moved = moved or sending.offset > before
        if waits and moved:
            self._round()  # what it waited for may be there now
        elif waits:
            raise waits

    def _send(self, sending: Sending, *, whole: bool) -> None:
        while (whole or not sending.offset) and not self._closed and sending.step():
            self._answered()
        if whole and sending.conclude():
            self._drop(sending.journal.key)
            self.on_sent(sending)

    def _drop(self, key: str) -> None:
        if sending := self._sendings.pop(key, None):
            sending.journal.sending.release(force=True)

    def _lost(self, reason: str) -> None:
        with self._changed:
            if not self.away:
                self.say(f"MLflow does not answer ({reason}); the work goes on, its results wait in {outbox.folder()}")
            self.away = reason
            self._changed.notify_all()

    def _answered(self) -> None:
        if self.away:
            self.say("MLflow answers again; what waited is being sent")
        self.away = ""


def say(line: str) -> None:
    """Prints a line that is no result."""
    print(line, file=sys.stderr, flush=True)


_sender: Sender | None = None


def sender() -> Sender:
    """The sender of this process."""
    global _sender
    if _sender is None:
        _sender = Sender(say)
    return _sender


def close_sender() -> None:
    """Ends the sender of this process; the next call of `sender` makes a new one."""
    global _sender
    if _sender is not None:
        _sender.close()
        _sender = None


def _forget() -> None:
    """A forked process has no thread, and sends what it writes itself."""
    global _sender
    _sender = None


os.register_at_fork(after_in_child=_forget)


def pick_up() -> None:
    """Sends what earlier processes left in the outbox; waits a few seconds for it, then goes on in the background."""
    remove_leftovers(outbox.folder())
    for journal in outbox.waiting():
        sender().take(Sending(journal, say))
    sender().flush()


def send_all() -> bool:
    """Sends everything in the outbox, with a line for each run; False if MLflow does not take it now."""
    remove_leftovers(outbox.folder())
    left = [journal for journal in outbox.waiting() if sender().take(Sending(journal, say))]
    count = itertools.count(1)
    sender().on_sent = lambda sending: say(f"{next(count)} of {len(left)}: sent {sending.name}")
    return sender().flush()


def finish(patience: float) -> str:
    """Waits until MLflow has everything, `patience` seconds at most if it is away.

    Returns what lies in the outbox then, and how it gets to MLflow; empty if nothing does. Ends the sender.
    """
    if not outbox.is_offline() and _sender is not None and not _sender.flush() and patience:
        say(f"waiting up to {patience:g} s for MLflow ({_sender.away})")
        _sender.flush(patience)
    words = last_words()
    close_sender()
    return words


def last_words() -> str:
    """What lies in the outbox and how it gets to MLflow; empty if nothing does."""
    left = [journal for journal in outbox.waiting() if outbox.ids_of(journal) and not journal.is_written]
    if not left:
        return ""
    runs = "1 run waits" if len(left) == 1 else f"{len(left)} runs wait"
    if outbox.is_offline():
        return f"{runs} in {outbox.folder()}: `{SEND}` brings them to MLflow, where there is a network"
    why = f"because MLflow does not answer ({sender().away or 'it is slow'})"
    return f"{runs} in {outbox.folder()} {why}: any next command sends them, or `{SEND}`"
