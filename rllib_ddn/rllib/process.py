"""Settings of the processes that learn and sample: SIGTERM, and the memory that glibc keeps."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading


def ignore_sigterm() -> None:
    """Where SIGTERM is blocked, as in the processes that ``rllib train`` starts, ignores it by a handler instead of the
    mask: processes that an env starts would inherit the mask, and SIGTERM could not end them."""
    if threading.current_thread() is threading.main_thread() and signal.SIGTERM in signal.pthread_sigmask(
        signal.SIG_BLOCK, []
    ):
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for reuse. By default it returns large blocks to the system at the end of each
    update, and gets them again page by page in the next: a sixth of its time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # as in malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**27)
        mallopt(mmap_max, 0)
