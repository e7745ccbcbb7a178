"""Commands in processes of their own, as copies of one that has imported everything (`fork_server.py`)."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("fork_server.py")


class Started:
    """A copy at work, with what tests need of `subprocess.Popen`."""

    def __init__(self, tell: int, out: int, err: int) -> None:
        self.stdout, self.stderr = (os.fdopen(end, encoding="utf-8", errors="replace") for end in (out, err))
        self._told = os.fdopen(tell, "rb", buffering=0)
        self.pid = int(self._line())
        self.returncode: int | None = None

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            byte = self._told.read(1)
            assert byte, "the fork server has ended"
            line += byte
        return line

    def poll(self) -> int | None:
        return self._within(0)

    def wait(self, timeout: float | None = None) -> int:
        if self._within(timeout) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def _within(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], timeout)[0]:
            self.returncode = int(self._line())
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it and the processes that it has started say, until the last of them has closed its streams."""
        said = ["", ""]

        def read(index: int, stream: Any) -> None:
            said[index] = "" if stream.closed else stream.read()
            stream.close()

        readers = [
            threading.Thread(target=read, args=pair, daemon=True) for pair in enumerate((self.stdout, self.stderr))
        ]
        deadline = None if timeout is None else time.monotonic() + timeout
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        self.wait(None if deadline is None else max(0, deadline - time.monotonic()))
        return said[0], said[1]

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """The process that is copied."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._jobs, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, str(SERVER), str(theirs.fileno())]
        self._process = subprocess.Popen(words, env=dict(environment), pass_fds=[theirs.fileno()])
        theirs.close()

    def start(self, *words: str, folder: Path, environment: Mapping[str, str], **moments: Any) -> Started:
        """`python <script> …` or `deepclust <command> …` in a folder."""
        job = {"words": words, "folder": str(folder), "environment": dict(environment), **moments}
        (tell, told), (out, said_out), (err, said_err) = os.pipe(), os.pipe(), os.pipe()
        socket.send_fds(self._jobs, [json.dumps(job).encode()], [said_out, said_err, told])
        for end in (said_out, said_err, told):
            os.close(end)
        return Started(tell, out, err)

    def close(self) -> None:
        self._jobs.close()
        self._process.kill()
        self._process.wait()
