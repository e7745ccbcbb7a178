"""A process that has imported everything, and runs each command that it is told to in a copy of itself.

Importing takes seconds, a copy milliseconds. Reads one JSON object a line: the words of the command, its folder, and at
which operation on the file system it is to be killed, or to meet a full disk; writes how each ended.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from typing import Any

import faiss
import torch

from deepclust.cli.main import main

# What the commands import when they run.
PRELOADED = (
    *(
        f"deepclust.cli.{name}"
        for name in ("train", "evaluate", "extract", "summarize", "subsets", "verify", "zero_shot")
    ),
    *("deepclust.cli.schema", "deepclust.runs.config", "deepclust.runs.measure", "deepclust.runs.verification"),
    *(
        "deepclust.cli.run_folder",
        "deepclust.training.termination",
        "deepclust.extraction.extract",
        "deepclust.subsets",
    ),
    *("deepclust.subsets.counts", "deepclust.zero_shot", "deepclust.report.sweeps", "timm", "sklearn.datasets"),
)
# What Python tells of before it happens: everything that changes files.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}


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


def child(job: dict[str, Any], out: int, err: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(job["folder"])
    if job["kill_at"] is not None:
        at_operation(job["kill_at"], job["folder"], CHANGES, send(job["signal"]))
    if job["refuse_at"] is not None:
        # A full disk lets files be removed.
        of = CHANGES - {"os.remove", "os.rmdir"} if job["reason"] == "ENOSPC" else CHANGES
        at_operation(job["refuse_at"], job["folder"], of, refuse(job["reason"]))
    code = 0
    try:
        main(job["words"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            child(job, out.fileno(), err.fileno())
        if job["signal_after"] is not None:
            time.sleep(job["signal_after"])
            os.kill(pid, job["signal"])
        deadline, status = time.monotonic() + 60, 0
        while (found := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        status = os.waitstatus_to_exitcode(found[1])
        out.seek(0)
        err.seek(0)
        return {"code": status, "out": out.read().decode(), "err": err.read().decode()}


if __name__ == "__main__":
    for module in PRELOADED:
        importlib.import_module(module)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    builtins.print("ready", flush=True)
    for line in sys.stdin:
        builtins.print(json.dumps(run(json.loads(line))), flush=True)
