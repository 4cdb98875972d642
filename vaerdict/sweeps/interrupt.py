"""Ctrl-C, remembered: libraries between may swallow it, or turn it into an error of their own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_seen = threading.Event()


@contextmanager
def remembered() -> Iterator[None]:
    """Raise KeyboardInterrupt at Ctrl-C as usual, and remember that it came; outside the main thread do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        _seen.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
        stop_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
        _seen.clear()


def stop_if_interrupted() -> None:
    """Raise what was swallowed.

    >>> stop_if_interrupted()
    """
    if _seen.is_set():
        raise KeyboardInterrupt
