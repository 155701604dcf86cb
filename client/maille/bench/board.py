"""What the board library does on MicroPython's unix port: kernels, round trips, memory."""

import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from maille.bench.board_driver import BoardDriver, drive, tiny_model
from maille.errors import MailleError, SettingsError
from maille.flashing.library import board_texts, compiled, library_folder
from maille_broker import start_broker
from maille_simulator.boards.interpreter import find_micropython
from maille_simulator.errors import ToolMissing

BROKERS: dict[str, Literal["amqtt", "mosquitto", "nats"]] = {
    "amqtt": "amqtt",
    "mosquitto": "mosquitto",
    "nats": "nats",
}
NODE = "bench-board"
MESH = "bench"
ROOMY_HEAP_KB = 1024
_FIRST_TASKS = 100
_KERNELS = ("dense", "convolution", "depthwise", "forest")
_MEASURE_KERNELS = """
import json
from maille import kernels_python, kernels_viper, measure
print(json.dumps([[k, dict(measure.kernel_speeds(m))[k]]
    for m in (kernels_viper, kernels_python) for k in range(4)]))
"""


@dataclass(frozen=True, slots=True)
class BoardPlan:
    """What to measure."""

    broker: str
    """One of `BROKERS`."""
    calls: int
    """Round trips for the latency."""
    tasks: int
    """After which the heap is compared with that after 100."""
    repeats: int
    """Rounds of the kernels; medians count."""


@dataclass(frozen=True, slots=True)
class KernelRatio:
    """One kernel on this machine, operations in a second."""

    kernel: str
    viper: int
    bytecode: int
    ratio: float


@dataclass(frozen=True, slots=True)
class BoardFigures:
    """What was found."""

    interpreter: str
    kernels: tuple[KernelRatio, ...]
    round_trip_p50_ms: float
    round_trip_p99_ms: float
    model_p50_ms: float
    beyond_model_p50_ms: float
    """Round trip without the model's own run."""
    beyond_model_p99_ms: float
    heap_growth_bytes: int
    """Of the heap after `tasks` over that after 100."""
    tasks: int
    heap_used_bytes: int
    """Of a node of .mpy files with a model of 3 KB, between two tasks, on a 64-bit machine."""
    least_heap_kb: int
    """The smallest heap in which such a node joins, takes its model and answers."""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def measure_board(plan: BoardPlan, say: Callable[[str], None]) -> BoardFigures:
    """Start a broker and boards' processes and measure them.

    Raises:
        MailleError: the interpreter or a broker is missing, or a board did not answer.
    """
    try:
        interpreter = find_micropython()
    except ToolMissing as error:
        raise SettingsError(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="maille-bench-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_measure(plan, interpreter, Path(folder), say))


async def _measure(
    plan: BoardPlan, interpreter: str, folder: Path, say: Callable[[str], None]
) -> BoardFigures:
    kind = BROKERS.get(plan.broker)
    if kind is None:
        raise SettingsError(f"--broker must be one of {', '.join(BROKERS)}.")
    library = folder / "library"
    compile_library(library)
    kernels = await asyncio.to_thread(_kernels, interpreter, plan.repeats)
    say("kernels measured")
    async with await start_broker(kind, port=0, data_directory=folder / "broker") as broker:
        port = broker.endpoint.port

        @asynccontextmanager
        async def board(heap_kb: int) -> AsyncIterator[BoardDriver]:
            home = folder / f"board-{heap_kb}-{time.monotonic_ns()}"
            async with (
                drive(broker.endpoint, MESH, NODE) as driver,
                _process(interpreter, library, home, port, heap_kb),
            ):
                await driver.ready()
                await driver.deploy(tiny_model())
                yield driver

        async with board(ROOMY_HEAP_KB) as driver:
            await driver.answers(_FIRST_TASKS)
            early = await driver.free_memory()
            used = ROOMY_HEAP_KB * 1024 - early
            trips = await driver.answers(plan.calls)
            say(f"{plan.calls} round trips")
            await driver.answers(max(0, plan.tasks - plan.calls - _FIRST_TASKS))
            growth = early - await driver.free_memory()
            say(f"{plan.tasks} tasks on one heap")
        least = await _least_heap(board, say)
    beyond = [trip_ms - run_ms for trip_ms, run_ms in trips]
    return BoardFigures(
        interpreter=interpreter_version(interpreter),
        kernels=kernels,
        round_trip_p50_ms=statistics.median(trip for trip, _ in trips),
        round_trip_p99_ms=_p99([trip for trip, _ in trips]),
        model_p50_ms=statistics.median(run for _, run in trips),
        beyond_model_p50_ms=statistics.median(beyond),
        beyond_model_p99_ms=_p99(beyond),
        heap_growth_bytes=growth,
        tasks=plan.tasks,
        heap_used_bytes=used,
        least_heap_kb=least,
    )


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


async def _least_heap(
    board: Callable[[int], AbstractAsyncContextManager[BoardDriver]],
    say: Callable[[str], None],
) -> int:
    """By halving, to 4 KB."""
    fails, works = 32, 256
    while works - fails > 4:
        middle = (fails + works) // 2
        try:
            async with asyncio.timeout(6), board(middle) as driver:
                await driver.answers(20)
        except (TimeoutError, MailleError):
            fails = middle
        else:
            works = middle
        say(f"a heap of {middle} KB {'is enough' if works == middle else 'is too small'}")
    return works


@asynccontextmanager
async def _process(
    interpreter: str, library: Path, home: Path, port: int, heap_kb: int
) -> AsyncIterator[None]:
    home.mkdir()  # noqa: ASYNC240 - nothing else runs yet
    settings = {
        "node": NODE,
        "mesh": MESH,
        "broker": f"mqtt://127.0.0.1:{port}",
        "folder": str(home / "models"),
        "max_model_bytes": 4096,
        "arena_bytes": 512,
    }
    (home / "maille.json").write_text(json.dumps(settings), "utf-8")
    process = await asyncio.create_subprocess_exec(
        *(interpreter, "-X", f"heapsize={heap_kb}k", "-c"),
        f"from maille import main\nmain({str(home / 'maille.json')!r})",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"MICROPYPATH": f"{library}:.frozen"},
    )
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def compile_library(folder: Path, architecture: str = "x64") -> None:
    """The board library as .mpy, for this machine if no other architecture is named.

    Raises:
        SettingsError: the compiler or the library is missing.
    """
    target = folder / "maille"
    target.mkdir(parents=True)
    texts = board_texts(library_folder())
    for source in sorted((library_folder() / "maille").glob("*.py")):
        made = compiled(source, architecture, texts[source.stem])
        (target / f"{source.stem}.mpy").write_bytes(made)


def interpreter_version(interpreter: str) -> str:
    """Name and version."""
    code = "import sys; print(sys.implementation.name, *sys.implementation.version[:3], sep='.')"
    return _output(interpreter, code).strip()


def _kernels(interpreter: str, repeats: int) -> tuple[KernelRatio, ...]:
    rounds = [json.loads(_output(interpreter, _MEASURE_KERNELS)) for _ in range(repeats)]
    found = [statistics.median(one[place][1] for one in rounds) for place in range(8)]
    return tuple(
        KernelRatio(name, round(found[kernel]), round(found[4 + kernel]), ratio=ratio)
        for kernel, name in enumerate(_KERNELS)
        for ratio in [found[kernel] / found[4 + kernel]]
    )


def _output(interpreter: str, code: str) -> str:
    ended = subprocess.run(
        [interpreter, "-c", code],
        capture_output=True,
        text=True,
        env={"MICROPYPATH": f"{library_folder()}:.frozen"},
        check=False,
    )
    if ended.returncode != 0:
        raise MailleError(f"MicroPython failed: {ended.stderr.strip()[-300:]}")
    return ended.stdout
