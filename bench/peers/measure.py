"""How a peer is measured: the same calls, the same clock and the same check for each.

A peer is a class with a few methods (`Peer`); `main` is the command line of every peer's
module and prints one JSON object:

    {"peer", "version", "settings", "latency_ms": {"p50", "p99", "mean"}, "tasks_per_s",
     "tasks", "in_flight", "tasks_per_s_by_in_flight", "answers_checked", "correct"}
"""

import argparse
import asyncio
import gc
import importlib
import json
import os
import signal
import socket
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bench.peers.classifier import Answer, Classifier

Reference = TypeVar("Reference")
Images = npt.NDArray[np.float32]
AsyncCall = Callable[[npt.NDArray[np.float32]], Awaitable[Answer]]

EXIT_MISSING = 3
"""Exit status of a peer whose package or program is not installed."""

_REPOSITORY = Path(__file__).resolve().parents[2]
# onnxruntime may add in another order on another call; a wrong answer differs by far more.
_TOLERANCE = 1e-5


class MissingError(Exception):
    """Something that a peer needs is not installed; the text names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        model: path of the ONNX file.
        warm_up_calls: calls before anything is timed.
        latency_calls: calls timed one after the other.
        tasks: tasks of the throughput run.
        cores: cores that the client, the workers and everything between them share.
    """

    model: Path
    warm_up_calls: int
    latency_calls: int
    tasks: int
    cores: int


class Peer(ABC):
    """One way of calling one peer, with its workers running from `start` to `stop`."""

    name: str
    package: str
    """The package whose version is reported."""

    in_flight: Sequence[int] = (64, 256, 0)
    """Numbers of tasks in flight to try; 0 stands for all at once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @property
    @abstractmethod
    def settings(self) -> dict[str, object]:
        """What was set differently from the peer's defaults."""

    @abstractmethod
    def start(self) -> None:
        """Starts the workers and loads the model in each."""

    @abstractmethod
    def stop(self) -> None:
        """Ends every process that `start` started; does nothing after a failed start."""

    @abstractmethod
    def one_by_one(self, images: Images) -> tuple[list[float], list[Answer]]:
        """Classifies images one call at a time: milliseconds of each call, and answers."""

    @abstractmethod
    def many(self, images: Images, in_flight: int) -> list[Answer]:
        """Classifies all images, each its own task, answers in the images' order."""


def require(module: str, package: str) -> ModuleType:
    """The module, or `MissingError` naming the package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingError(f"{error}; install it with: pip install '{package}'") from error


def timed_calls(
    call: Callable[[npt.NDArray[np.float32]], Answer], images: Images
) -> tuple[list[float], list[Answer]]:
    """`Peer.one_by_one` for a peer whose call blocks until the answer is there."""
    latencies_ms, answers = [], []
    for image in images:
        started = time.perf_counter()
        answers.append(call(image))
        latencies_ms.append((time.perf_counter() - started) * 1e3)
    return latencies_ms, answers


def overlapped(
    submit: Callable[[npt.NDArray[np.float32]], Reference],
    collect: Callable[[list[Reference]], list[Answer]],
    images: Images,
    in_flight: int,
) -> list[Answer]:
    """Keeps two windows of half `in_flight` tasks open, so that workers never run dry.

    With `in_flight` 0 all tasks are submitted before the first answer is collected.
    """
    size = in_flight // 2 or len(images)
    open_windows: deque[list[Reference]] = deque()
    answers: list[Answer] = []
    for begin in range(0, len(images), size):
        open_windows.append([submit(image) for image in images[begin : begin + size]])
        if len(open_windows) == 2:
            answers.extend(collect(open_windows.popleft()))
    for window in open_windows:
        answers.extend(collect(window))
    return answers


async def timed_awaits(call: AsyncCall, images: Images) -> tuple[list[float], list[Answer]]:
    """`Peer.one_by_one` for a peer whose call is awaited."""
    latencies_ms, answers = [], []
    for image in images:
        started = time.perf_counter()
        answers.append(await call(image))
        latencies_ms.append((time.perf_counter() - started) * 1e3)
    return latencies_ms, answers


async def sliding(call: AsyncCall, images: Images, in_flight: int) -> list[Answer]:
    """Keeps `in_flight` calls open at any moment, or all at once when it is 0."""
    answers: dict[int, Answer] = {}
    waiting = iter(enumerate(images))

    async def lane() -> None:
        for index, image in waiting:
            answers[index] = await call(image)

    await asyncio.gather(*(lane() for _ in range(in_flight or len(images))))
    return [answers[index] for index in range(len(images))]


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def digits(count: int) -> Images:
    """`count` images of digits, repeating when there are more than the data set has."""
    try:
        from maille.digits import load_digits
    except ImportError as error:
        raise MissingError(f"{error}; install it with: pip install '.[demo]'") from error
    return np.resize(load_digits()[0].images, (count, 64))


def measure(peer: Peer) -> dict[str, object]:
    """Measures a started peer; every answer is compared with onnxruntime alone."""
    plan = peer.plan
    peer.one_by_one(digits(plan.warm_up_calls))
    peer.many(digits(plan.warm_up_calls), 0)
    # The client's own garbage collection would show as the peer's p99.
    gc.collect()
    gc.freeze()

    latency_images = digits(plan.latency_calls)
    latencies_ms, answers = peer.one_by_one(latency_images)
    wrong = _wrong(plan.model, latency_images, answers)

    task_images = digits(plan.tasks)
    tasks_per_s: dict[int, float] = {}
    for in_flight in peer.in_flight:
        started = time.perf_counter()
        answers = peer.many(task_images, in_flight)
        tasks_per_s[in_flight] = plan.tasks / (time.perf_counter() - started)
        wrong += _wrong(plan.model, task_images, answers)
    best = max(tasks_per_s, key=lambda in_flight: tasks_per_s[in_flight])

    return {
        "peer": peer.name,
        "version": version(peer.package),
        "settings": {"cores": plan.cores, "onnxruntime": version("onnxruntime"), **peer.settings},
        "latency_ms": {
            "p50": round(statistics.median(latencies_ms), 4),
            "p99": round(float(np.percentile(latencies_ms, 99)), 4),
            "mean": round(statistics.fmean(latencies_ms), 4),
        },
        "tasks_per_s": round(tasks_per_s[best], 1),
        "tasks": plan.tasks,
        "in_flight": _in_flight_name(best),
        "tasks_per_s_by_in_flight": {
            _in_flight_name(in_flight): round(rate, 1) for in_flight, rate in tasks_per_s.items()
        },
        "answers_checked": plan.latency_calls + plan.tasks * len(tasks_per_s),
        "correct": wrong == 0,
    }


def main(ways: Mapping[str, Callable[[Plan], Peer]]) -> None:
    """The command line of one peer: measures one way of calling it, prints one JSON object."""
    parser = argparse.ArgumentParser(description="Measure one peer; prints one JSON object.")
    parser.add_argument("--way", choices=list(ways), default=next(iter(ways)))
    add_arguments(parser)
    arguments = parser.parse_args()
    plan = plan_from(arguments)
    _prepare(plan.cores)
    # Asked to end, a peer still ends its workers and removes its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        peer = ways[arguments.way](plan)
        try:
            peer.start()
            result = measure(peer)
        finally:
            peer.stop()
    except MissingError as error:
        print(json.dumps({"missing": str(error)}))
        sys.exit(EXIT_MISSING)
    print(json.dumps(result), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that make a `Plan`."""
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file to run")
    parser.add_argument("--warm-up", type=int, default=100, help="calls before timing (100)")
    parser.add_argument("--calls", type=int, default=1000, help="sequential calls (1000)")
    parser.add_argument("--tasks", type=int, default=5000, help="tasks for throughput (5000)")
    parser.add_argument("--cores", type=int, default=2, help="cores for everything (2)")


def plan_from(arguments: argparse.Namespace) -> Plan:
    """The `Plan` that the options say; ends the program when it cannot be carried out."""
    model: Path = arguments.model.resolve()
    if not model.is_file():
        sys.exit(f"{model}: no such file; make it with: maille bench model {model}")
    if min(arguments.warm_up, arguments.calls, arguments.tasks, arguments.cores) < 1:
        sys.exit("--warm-up, --calls, --tasks and --cores must be at least 1")
    return Plan(model, arguments.warm_up, arguments.calls, arguments.tasks, arguments.cores)


def _prepare(cores: int) -> None:
    """Keeps this process and all it starts on `cores` cores and able to import the peers."""
    os.environ["PYTHONPATH"] = str(_REPOSITORY)
    if hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        if len(available) < cores:
            sys.exit(f"{cores} cores asked, {len(available)} available; say --cores")
        os.sched_setaffinity(0, available[:cores])


def _wrong(model: Path, images: Images, answers: Sequence[Answer]) -> int:
    """How many answers are missing or differ from those of onnxruntime alone."""
    alone = Classifier(model)
    wrong = len(images) - len(answers)
    for image, (label, probabilities) in zip(images, answers, strict=False):
        right_label, right_probabilities = alone(image)
        close = np.allclose(probabilities, right_probabilities, rtol=0, atol=_TOLERANCE)
        wrong += label != right_label or not close
    return wrong


def _in_flight_name(in_flight: int) -> str:
    return str(in_flight) if in_flight else "all"
