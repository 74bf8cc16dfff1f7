"""The most memory that a piece of work asked for."""

from __future__ import annotations

import threading

import psutil


class PeakMemory:
    """The most memory that this process and its workers held within a `with`, looked at every few milliseconds."""

    def __enter__(self) -> PeakMemory:
        self.resident_bytes, self.anonymous_bytes, self._done = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while True:
            resident = anonymous = 0
            for process in [this, *this.children(recursive=True)]:
                try:
                    memory = process.memory_info()
                except psutil.NoSuchProcess:
                    continue
                resident += memory.rss
                anonymous += memory.rss - getattr(memory, "shared", 0)  # elsewhere than on Linux an upper bound
            self.resident_bytes = max(self.resident_bytes, resident)
            self.anonymous_bytes = max(self.anonymous_bytes, anonymous)
            if self._done.wait(0.02):
                return
