"""Shards made by processes of a Ray cluster. This process hands them out, and gets their rows back to write them.

Ray's own `ActorPool` gives results without saying whose they are, so that the shard of a process that died could not be
given to another; the loop here is as short and can.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deepclust.extraction.encoders import EncoderSpec, load_encoder
from deepclust.extraction.image_source import ImageSource
from deepclust.extraction.images import UnreadableImageError
from deepclust.extraction.shard_maker import MAX_THREADS, Shard, ShardMaker, Shards, cpus_at_hand, refuse_unreadable
from deepclust.extraction.shard_plan import printable
from deepclust.runtime.errors import InputError

# So many processes may die of one shard, or while they load, before it is taken for the shard's or the encoder's fault.
MOST_DEATHS = 3
# A line says so where no process has begun for so long.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Task:
    """What a process needs to make shards: arguments of `load_encoder` and `ShardMaker`, and the command's folder."""

    source: ImageSource
    spec: EncoderSpec
    device: str
    precision: str
    compile: bool
    dtype: type[np.floating]
    batch_size: int | None
    workers: int | None
    folder: str = field(default_factory=os.getcwd)

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device={self.device}, but engine=ray gives each process its GPU: auto, cpu or cuda")


class Worker:
    """Lives in a process of the cluster."""

    def load(self, task: Task, cpus: int) -> tuple[str, dict[str, Any]]:
        """Load the encoder; the machine's name, and what `ShardMaker.describe` says."""
        if os.path.isdir(task.folder):  # places may be relative to where the command was given
            os.chdir(task.folder)
        encoder = load_encoder(task.spec, device=task.device, precision=task.precision, compile=task.compile)
        self.maker = ShardMaker(
            task.source,
            encoder,
            task.dtype,
            batch_size=task.batch_size,
            workers=task.workers,
            cpus=max(1, min(cpus, cpus_at_hand())),
        )
        return socket.gethostname(), self.maker.describe()

    def make(self, shard: int, images: range) -> Shard:
        (made,) = self.maker.shards({shard: images}, lambda done: None)
        return made


@contextmanager
def ray_workers(task: Task, on_error: str) -> Iterator[RayWorkers]:
    """Processes of the cluster that `RAY_ADDRESS` names or that runs on this machine, else of a Ray of this command's
    own. They are ended with the block.

    Raises:
        InputError: if Ray is not installed or cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise InputError("engine=ray needs Ray: pip install 'deepclust[ray]', or leave engine=local") from None
    ours = not ray.is_initialized()
    if ours:
        # A Ray that is started here reports no usage to its makers unless it is told to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0][:200]
            raise InputError(
                f"Ray cannot be used ({reason}): start it by `ray start --head`, or look at RAY_ADDRESS"
            ) from None
    try:
        workers = RayWorkers(ray, task, on_error)
        try:
            yield workers
        finally:
            workers.end()
    finally:
        if ours:
            ray.shutdown()


class RayWorkers:
    """Does what a `ShardMaker` does.

    There is a process for each GPU; in a cluster without GPUs, one for every eight CPU cores. It gets shards once it
    has loaded the encoder. Where one dies, another is started, and its shard goes to whoever is free.
    """

    def __init__(self, ray: Any, task: Task, on_error: str) -> None:
        self._ray, self._source, self._on_error = ray, task.source, on_error
        self.most, self._resources = _slots(ray, task.device)
        if task.device == "auto":
            task = replace(task, device="cuda" if self._resources["num_gpus"] else "cpu")
        self._task = ray.put(task)
        self._description: dict[str, Any] | None = None
        # What is under way: the process, and its shard; None while it loads.
        self._running: dict[Any, tuple[Any, int | None]] = {}
        self._idle: list[Any] = []
        self._deaths: Counter[int | None] = Counter()
        self._hosts: dict[Any, str] = {}

    def describe(self) -> dict[str, Any]:
        """As the first process that has loaded the encoder says.

        Raises:
            InputError: as `load_encoder`, there.
        """
        self._start()
        while self._description is None:
            self._next()
        return self._description

    def shards(self, images: Mapping[int, range], advance: Callable[[int], object]) -> Shards:
        """As `ShardMaker.shards`, in the order in which they are done.

        Raises:
            InputError: as there; if processes do not agree on what they make; if three have died of one shard.
        """
        waiting, n_left = deque(images), len(images)
        while len(self._hosts) + len(self._loading()) < min(self.most, n_left):
            self._start()
        while n_left:
            while waiting and self._idle:
                given, worker = waiting.popleft(), self._idle.pop()
                self._running[worker.make.remote(given, images[given])] = worker, given
            made, lost = self._next()
            if made is not None:
                advance(len(images[made[0]]))
                n_left -= 1
                yield made
            elif lost is not None:
                waiting.appendleft(lost)

    def end(self) -> None:
        for worker in {*self._idle, *(worker for worker, _ in self._running.values())}:
            self._ray.kill(worker)

    def _loading(self) -> list[Any]:
        return [worker for worker, shard in self._running.values() if shard is None]

    def _start(self) -> None:
        worker = self._ray.remote(Worker).options(**self._resources).remote()
        self._running[worker.load.remote(self._task, int(self._resources["num_cpus"]))] = worker, None

    def _next(self) -> tuple[Shard | None, int | None]:
        """Wait for whoever is done first: the shard that was made, or the number of one that was not."""
        ready = self._wait()
        worker, shard = self._running.pop(ready)
        try:
            told = self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise InputError(f"on {self._hosts.get(worker, error.ip)}, {error.cause}") from None
            raise (error.cause or error) from None
        except self._ray.exceptions.RayError as error:  # the process or its machine is gone
            self._ray.kill(worker)
            self._hosts.pop(worker, None)
            self._count_death(shard, str(error))
            self._start()
            return None, shard
        self._idle.append(worker)
        if shard is None:
            self._deaths[None] = 0
            self._greet(worker, *told)
            return None, None
        self._check_skipped(self._hosts[worker], told[2])
        return told, None

    def _wait(self) -> Any:
        while not (ready := self._ray.wait(list(self._running), timeout=PATIENCE_SECONDS)[0]):
            if not self._hosts:
                wanted = f"{self._resources['num_gpus']:g} GPU and {self._resources['num_cpus']:g} CPU cores"
                print(f"waiting for the Ray cluster to give {wanted} to a process", file=sys.stderr, flush=True)
        return ready[0]

    def _greet(self, worker: Any, host: str, description: dict[str, Any]) -> None:
        self._hosts[worker] = host
        self._description = self._description or description
        for part, said in description.items():
            agreed = self._description[part]
            if said != agreed:
                key = next(key for key in {**said, **agreed} if said.get(key) != agreed.get(key))
                raise InputError(
                    f"{host} would make other features than the first machine: {part}.{key} is {said.get(key)}, "
                    f"there {agreed.get(key)}: make them equal, or give precision="
                )

    def _check_skipped(self, host: str, skipped: list[tuple[int, str]]) -> None:
        """An image that this process can read is no damaged one: the other machine does not see the folder."""
        if not skipped:
            return
        image, reason = skipped[0]
        try:
            self._source.image(image)
        except UnreadableImageError:
            if self._on_error == "raise":
                refuse_unreadable(self._source, image, reason)
            return
        raise InputError(
            f"{printable(self._source.path(image))} of {self._source.name} cannot be read on {host} ({reason}), but it "
            "can here: put the images where every machine of the cluster finds them under the same path"
        )

    def _count_death(self, shard: int | None, reason: str) -> None:
        self._deaths[shard] += 1
        if self._deaths[shard] == MOST_DEATHS:
            what = "loaded the encoder" if shard is None else f"made shard {shard}"
            said = reason.strip().splitlines()[-1][:160]
            raise InputError(
                f"{MOST_DEATHS} processes of the Ray cluster died while they {what} ({said}): "
                "give them more memory, or lower batch_size= and workers="
            )


def _slots(ray: Any, device: str) -> tuple[int, dict[str, float]]:
    """How many processes the cluster has room for, and what each takes."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpu = device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes)
    if on_gpu:
        slots = [(int(node["GPU"]), node.get("CPU", 0)) for node in nodes if node.get("GPU", 0) >= 1]
    else:
        slots = [(max(1, int(node["CPU"]) // MAX_THREADS), node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not slots:
        raise InputError("the Ray cluster has no CPU and no GPU to give: start its machines by `ray start --address=…`")
    return sum(n for n, _ in slots), {"num_gpus": float(on_gpu), "num_cpus": min(cpus // n for n, cpus in slots)}
