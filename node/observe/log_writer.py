"""A log file that nobody waits for: lines go to a thread, which writes them and puts full files aside."""

from __future__ import annotations

import queue
import threading
from typing import Final

from shared_state.log_files import LogFile
from shared_state.logs import get_logger

log = get_logger(__name__)

#: More is dropped: a disk that does not keep up must not cost the node its memory.
_MOST_BYTES: Final = 16 * 2**20


class LogWriter:
    """Takes lines and writes them, as long as the disk keeps up.

    Attributes:
        dropped: pieces of the log, each some lines long, that were not written.
    """

    def __init__(self, file: LogFile, *, most_bytes: int = _MOST_BYTES) -> None:
        self._file = file
        self._most_bytes = most_bytes
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_failing = False
        self.dropped = 0

    def write(self, data: bytes) -> None:
        """Takes whole lines; never blocks."""
        with self._lock:
            if self._waiting_bytes + len(data) > self._most_bytes:
                self.dropped += 1
                return
            self._waiting_bytes += len(data)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
            self._thread.start()
        self._queue.put(data)

    def flush(self) -> None:
        """Nothing to do: the thread writes as lines come."""

    def close(self, *, within_s: float) -> None:
        """Waits until what was taken is written."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(within_s)
            self._thread = None

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                self._file.append(data)
            except OSError as error:
                self._fail(error)
            else:
                self._is_failing = False
            finally:
                with self._lock:
                    self._waiting_bytes -= len(data)

    def _fail(self, error: OSError) -> None:
        self.dropped += 1
        if not self._is_failing:
            self._is_failing = True
            log.error("the request log is not written", path=str(self._file.path), error=str(error))
