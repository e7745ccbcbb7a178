"""Two machines to rehearse on: network namespaces of this host, each with an address of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Machine:
    """Where a process may run.

    Attributes:
        address: at which the other machine finds it.
        namespace: file of its network namespace; None for this host's own.
        environment: what its processes are told.
    """

    address: str
    namespace: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two namespaces with a cable between them, where root may make them; else twice this host."""
    names = [f"deepclust-{os.getpid()}-{number}" for number in (1, 2)]
    cable = [f"dc{os.getpid() % 100_000}n{number}" for number in (1, 2)]
    machines = tuple(
        Machine(f"10.213.7.{number}", f"/run/netns/{name}", {"GLOO_SOCKET_IFNAME": end})
        for number, name, end in zip((1, 2), names, cable)
    )
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", cable[0], "netns", names[0], "type", "veth", "peer", "name", cable[1], "netns", names[1])
        for machine, name, end in zip(machines, names, cable):
            _ip("-n", name, "address", "add", f"{machine.address}/24", "dev", end)
            for device in (end, "lo"):
                _ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError):
        machines = (Machine("127.0.0.1"), Machine("127.0.0.1"))
    try:
        yield machines[0], machines[1]
    finally:
        if shutil.which("ip"):
            for name in names:  # the cable goes with its ends
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
