"""A process that has imported everything, and runs each command that it is told to in a copy of itself.

Importing takes seconds, a copy milliseconds. A job comes as a JSON object over a socket, with three file descriptors:
stdout, stderr, and a pipe on which the copy's pid is told at once and its exit code at its end. A job may say at which
change of a file the copy is to be killed, or to meet a full disk, and in which network namespace it is.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import faiss
import torch

from deepclust.cli.main import main

# What the commands import when they run.
COMMANDS = ("train", "evaluate", "extract", "summarize", "subsets", "verify", "zero_shot", "run_folder", "schema")
PRELOADED = (
    *(f"deepclust.cli.{name}" for name in COMMANDS),
    *("deepclust.runs.config", "deepclust.runs.measure", "deepclust.runs.verification", "deepclust.report.sweeps"),
    *("deepclust.training.termination", "deepclust.training.fit", "deepclust.extraction.extract"),
    *("deepclust.subsets", "deepclust.subsets.counts", "deepclust.zero_shot", "timm", "sklearn.datasets"),
    *("torch.distributed.run", "torch._dynamo"),
)
# What Python tells of before it happens: everything that changes files.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}
N_STREAMS = 3
NETWORK = 0x40000000  # CLONE_NEWNET


def at_operation(number: int, folder: str, of: set[str], act: Any) -> None:
    """Call `act` right before the n-th change of a file below the folder."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            name, mode, flags = arguments
            changes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        else:
            name, changes = (arguments[0] if arguments else None), event in of
        if changes and isinstance(name, str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(name))
            if path.startswith(folder):
                count += 1
                act(count - number, path)

    sys.addaudithook(hook)


def send(number: int) -> Any:
    def act(after: int, path: str) -> None:
        if after == 0:
            os.kill(os.getpid(), number)

    return act


def refuse(reason: str) -> Any:
    """What the file system says from then on: ENOSPC, EROFS, …"""
    code = getattr(errno, reason)

    def act(after: int, path: str) -> None:
        if after >= 0:
            raise OSError(code, os.strerror(code), path)

    return act


def disturb(job: dict[str, Any]) -> None:
    """Prepare what is to happen to this process at a change of a file."""
    if job.get("kill_at") is not None:
        at_operation(job["kill_at"], job["folder"], CHANGES, send(job.get("signal", signal.SIGKILL)))
    if job.get("refuse_at") is not None:
        reason = job.get("reason", "ENOSPC")
        # A full disk lets files be removed.
        of = CHANGES - {"os.remove", "os.rmdir"} if reason == "ENOSPC" else CHANGES
        at_operation(job["refuse_at"], job["folder"], of, refuse(reason))


def run(job: dict[str, Any]) -> int:
    """What `python <script> …`, or else `python -m deepclust …`, would do in this folder, and its exit code."""
    script = job["words"][0]
    try:
        if Path(script).is_file():
            sys.argv = job["words"]
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(script, run_name="__main__")
        else:
            # Where Lightning starts further processes it starts this file.
            sys.argv = [str(Path(main.__code__.co_filename).parents[1] / "__main__.py"), *job["words"]]
            main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def copy(job: dict[str, Any], out: int, err: int) -> None:
    """The life of a copy."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    if job.get("namespace") is not None:
        with open(job["namespace"]) as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), NETWORK):
                raise OSError(ctypes.get_errno(), f"cannot enter {job['namespace']}")
    disturb(job)
    code = run(job)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def received(jobs: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next job and its file descriptors; None where nobody is left to give any."""
    message, streams, *_ = socket.recv_fds(jobs, 1 << 20, N_STREAMS)
    return (json.loads(message), streams) if message else None


def serve(jobs: socket.socket) -> None:
    """Start what comes, and tell of each end, until the other end of the socket is closed."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told: dict[int, int] = {}
    while True:
        ready, *_ = select.select([jobs, woken], [], [])
        if woken in ready:
            with suppress(BlockingIOError):
                os.read(woken, 1 << 10)
        if jobs in ready:
            if (job := received(jobs)) is None:
                return
            words, (out, err, tell) = job
            if (pid := os.fork()) == 0:
                for stream in (jobs.fileno(), woken, wake, tell, *told.values()):
                    os.close(stream)
                copy(words, out, err)
            os.close(out)
            os.close(err)
            os.write(tell, b"%d\n" % pid)
            told[pid] = tell
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                tell = told.pop(found[0])
                with suppress(BrokenPipeError):
                    os.write(tell, b"%d\n" % os.waitstatus_to_exitcode(found[1]))
                os.close(tell)


if __name__ == "__main__":
    for module in PRELOADED:
        importlib.import_module(module)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    serve(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=int(sys.argv[1])))
