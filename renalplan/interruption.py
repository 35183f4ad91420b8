"""Ctrl-C and SIGTERM end a command within two seconds, whatever it does.

The signal is raised as an exception where the program is, so that what is open is closed. A thread
sees to it that this does not take long: while a library computes, Python raises nothing, and now
and then a library swallows what is raised.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any
from weakref import WeakSet

from renalplan.files import remove_unfinished
from renalplan.locks import release_all

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 1.5  # for closing what is open
MOMENT_SECONDS = 0.3  # in which a signal to a whole group has reached all of it
FORKED_STATUS = 128 + signal.SIGTERM
_listening: list[Interruption] = []
_spared: WeakSet[threading.Thread] = WeakSet()  # whoever needs them says why they failed
_telling: set[int] = set()  # descriptors that signals are told to
_masks: dict[int, set[int | signal.Signals]] = {}  # a thread's, while it forks


class Interrupted(BaseException):
    """A signal asks this process to end.

    Attributes:
        number: Which one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """What the shell is told: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class Interruption:
    """Whether this process was asked to end.

    Attributes:
        number: The signal that asked; None as long as none has.
    """

    def __init__(self, say: Callable[[int], None]) -> None:
        """Of this process.

        Args:
            say: Told the signal when the process is ended by force.
        """
        self.number: int | None = None
        self._say = say
        self._owner = os.getpid()
        self._finishing = False
        self._waiting: int | None = None
        self._closed = threading.Event()
        self._told = threading.Event()

    def take(self, number: int, _: FrameType | None) -> None:
        """The signals' handler.

        Raises:
            Interrupted: always, in the process itself; a forked data worker leaves Ctrl-C to it.
        """
        if os.getpid() != self._owner:
            if number == signal.SIGTERM:
                os._exit(FORKED_STATUS)
            return
        if self._finishing:
            self._waiting = number
            return
        for other in SIGNALS:  # once more ends it at once
            signal.signal(other, signal.SIG_DFL)
        self.number = number
        raise Interrupted(number)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """See `finishing_first`."""
        self._finishing = True
        try:
            yield
        finally:
            self._finishing = False
        if self._waiting is not None:
            self.take(self._waiting, None)

    def watch(self, wakes: socket.socket) -> None:
        """End the process if it does not end by itself after a signal; what a thread does.

        Args:
            wakes: A byte comes out of it for every signal, at once, with the signal's number.
        """
        with wakes:
            while numbers := wakes.recv(64):
                number = numbers[-1]
                ours = self.number is not None or signal.getsignal(number) == self.take
                if number not in SIGNALS or not ours:  # a training with a budget has other plans
                    continue
                self._told.set()
                if not self._closed.wait(GRACE_SECONDS):
                    self._say(number)
                    remove_unfinished()
                    release_all()
                    os._exit(128 + number)

    def is_expected(self) -> bool:
        """Whether a thread that fails does so because all are to end.

        `timeout`, SLURM and systemd signal a whole group: a library's thread that serves data workers may
        miss them before this process has taken its own signal.
        """
        return self._told.wait(MOMENT_SECONDS)

    def close(self) -> None:
        """The process has ended what it did."""
        self._closed.set()


@contextmanager
def listening(say: Callable[[int], None], *, to_the_end: bool) -> Iterator[Interruption]:
    """Raise `Interrupted` for the two signals while the block runs; only the main thread can.

    Args:
        say: Told the signal if the process has to be ended by force.
        to_the_end: Go on watching after the block if there was a signal: the process ends there, and
            waits for its threads.
    """
    interruption = Interruption(say)
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    _listening.append(interruption)
    hears, tells = socket.socketpair()
    tells.setblocking(False)
    _telling.add(tells.fileno())
    woken = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    before = {
        number: signal.signal(number, interruption.take)
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN  # `nohup`, or a script's `&`
    }
    threading.Thread(target=interruption.watch, args=(hears,), daemon=True).start()
    hook = sys.unraisablehook
    sys.unraisablehook = silent_about(Interrupted, hook)
    threads_hook = threading.excepthook
    threading.excepthook = lambda lost: (
        None if lost.thread in _spared or interruption.is_expected() else threads_hook(lost)
    )
    try:
        yield interruption
    finally:
        if not (to_the_end and interruption.number is not None):
            interruption.close()
            _listening.remove(interruption)
            for number, handler in before.items():
                signal.signal(number, handler)
            sys.unraisablehook, threading.excepthook = hook, threads_hook
            signal.set_wakeup_fd(woken)
            _telling.discard(tells.fileno())
            tells.close()  # which ends the thread


def finishing_first() -> AbstractContextManager[None]:
    """A signal that comes while the block runs is raised at its end.

    For libraries that call Python from C++: some end the process with SIGABRT if that raises. A block of more
    than `GRACE_SECONDS` is ended by force, as everything is.
    """
    if not _listening or threading.current_thread() is not threading.main_thread():
        return nullcontext()
    return _listening[-1].finishing()


def spare(thread: threading.Thread) -> None:
    """A thread that fails without a traceback in a command: who waits for what it does, says so."""
    _spared.add(thread)


def silent_about(kind: type[BaseException], hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A `sys.unraisablehook` that prints nothing of one kind.

    What a signal raises while Python removes an object goes no further: Python would print it and go
    on. Whoever has asked the process to end sees to it all the same.

    Args:
        kind: What signals raise here.
        hook: What is to become of everything else.
    """
    return lambda lost: None if isinstance(lost.exc_value, kind) else hook(lost)


@contextmanager
def keeping_ctrl_c() -> Iterator[None]:
    """What is started in the block never sees Ctrl-C, not even before its first line: it is for us."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hold_back() -> None:
    """Until a forked process knows that it is one, signals to it would be taken for ours."""
    if _telling:
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _let_come() -> None:
    if (mask := _masks.pop(threading.get_ident(), None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _be_a_fork() -> None:
    """Tell signals to nobody; what is told goes to the process that this one came from."""
    if _telling and threading.current_thread() is threading.main_thread():
        if (woken := signal.set_wakeup_fd(-1)) not in _telling:
            signal.set_wakeup_fd(woken)
        _telling.clear()
    _let_come()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_come, after_in_child=_be_a_fork)
