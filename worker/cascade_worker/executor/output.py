"""What tasks print: sys.stdout and sys.stderr of an executor.

Every line is tagged with the attempt that wrote it and goes to the worker at once, through the socket that
results go through, so that lines never come after their attempt's report.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO, cast

from cascade_worker.executor.frames import LENGTH, LOG, dumps

__all__ = ["STDERR", "STDOUT", "LineWriter", "Speaker"]

STDOUT, STDERR = 1, 2
LINE_CHARS_MAX = 8192
LINES_PER_SECOND = 2000
LINES_BURST = 10_000


class Speaker:
    """Sends frames to the worker, whole, whichever thread asks.

    A stop signal raises in the main thread, wherever that is. In the middle of a frame it must not: then the
    exception waits until the frame is out.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self.sending = False
        """The main thread is in `say`; the signal handler must not raise."""
        self.deferred: BaseException | None = None
        """What the signal handler would have raised."""
        self._main = threading.get_ident()
        self._queued: list[bytes] = []

    def say(self, frame: tuple[Any, ...], sent: Callable[[], None] | None = None) -> None:
        """Sends one frame; waits for the worker if that is slow.

        Args:
            frame: what is sent.
            sent: called when it is on its way; a stop that comes meanwhile is raised after that.
        """
        data = dumps(frame)
        packet = LENGTH.pack(len(data)) + data
        if threading.get_ident() != self._main:
            with self._lock:
                self._sock.sendall(packet)
            return
        if self.sending:  # a signal handler of the user prints while its task was printing
            self._queued.append(packet)
            return
        self.sending = True
        try:
            with self._lock:
                self._sock.sendall(packet)
                while self._queued:
                    self._sock.sendall(self._queued.pop(0))
            if sent is not None:
                sent()
        finally:
            self.sending = False
        if self.deferred is not None:
            error, self.deferred = self.deferred, None
            raise error


class _Bucket:
    """Bounds the rate of lines; what is over is counted."""

    def __init__(self) -> None:
        self._tokens = float(LINES_BURST)
        self._filled_at = time.monotonic()
        self.dropped = 0

    def take(self) -> bool:
        if self._tokens < 1:
            now = time.monotonic()
            grown = self._tokens + (now - self._filled_at) * LINES_PER_SECOND
            self._tokens = min(grown, float(LINES_BURST))
            self._filled_at = now
            if self._tokens < 1:
                self.dropped += 1
                return False
        self._tokens -= 1
        return True


class LineWriter(io.TextIOBase):
    """A text stream that sends lines.

    Args:
        stream: STDOUT or STDERR.
        speaker: who sends.
        attempt: gives the attempt that the calling code belongs to; 0 for none.
        fd: what `fileno` answers, for code that writes to the descriptor itself.
    """

    def __init__(self, stream: int, speaker: Speaker, attempt: Callable[[], int], fd: int) -> None:
        self._stream = stream
        self._speaker = speaker
        self._attempt = attempt
        self._fd = fd
        self._partial: dict[int, str] = {}
        self._bucket = _Bucket()
        self._bytes: _ByteSide | None = None

    encoding = "utf-8"
    errors = "replace"
    newlines = None

    @property
    def name(self) -> str:
        """As of the real streams."""
        return "<stdout>" if self._stream == STDOUT else "<stderr>"

    @property
    def buffer(self) -> io.BufferedIOBase:
        """Takes bytes, as the real streams' buffers do."""
        if self._bytes is None:
            self._bytes = _ByteSide(self)
        return self._bytes

    def fileno(self) -> int:
        """The descriptor; what is written there is attributed by the worker."""
        return self._fd

    def isatty(self) -> bool:
        """Never."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Sends complete lines; the rest waits for its end."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        attempt = self._attempt()
        if "\n" not in text:
            before = self._partial.get(attempt, "")
            if len(before) <= LINE_CHARS_MAX:
                self._partial[attempt] = before + text[: LINE_CHARS_MAX + 1]
            return len(text)
        lines = (self._partial.pop(attempt, "") + text).split("\n")
        if lines[-1]:
            self._partial[attempt] = lines[-1][: LINE_CHARS_MAX + 1]
        for line in lines[:-1]:
            self._send(attempt, line)
        return len(text)

    def _send(self, attempt: int, line: str) -> None:
        bucket = self._bucket
        if not bucket.take():
            return
        if bucket.dropped:
            note = f"[{bucket.dropped:,} lines dropped: more than {LINES_PER_SECOND:,} a second]"
            bucket.dropped = 0
            self._speaker.say((LOG, attempt, self._stream, note))
        if len(line) > LINE_CHARS_MAX:
            line = line[:LINE_CHARS_MAX] + "… [cut]"
        self._speaker.say((LOG, attempt, self._stream, line.rstrip("\r")))

    def ended(self, attempt: int) -> None:
        """The attempt has ended: its last line needs no end, and what was dropped is said."""
        if self._partial:
            line = self._partial.pop(attempt, "")
            if line:
                self._send(attempt, line)
        if self._bucket.dropped:
            note = f"[{self._bucket.dropped:,} lines dropped: more than {LINES_PER_SECOND:,} a second]"
            self._bucket.dropped = 0
            self._speaker.say((LOG, attempt, self._stream, note))

    def as_text(self) -> TextIO:
        """Itself, as sys.stdout is typed."""
        return cast("TextIO", self)


class _ByteSide(io.BufferedIOBase):
    """sys.stdout.buffer."""

    def __init__(self, text: LineWriter) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self._text.write(bytes(view).decode("utf-8", "replace"))
        return view.nbytes

    def fileno(self) -> int:
        return self._text.fileno()
