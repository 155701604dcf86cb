"""What this machine can do, measured in at most half a second and kept for a day."""

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil

from maille_node.runtime import onnx
from maille_protocol import Measured

logger = logging.getLogger(__name__)

KEPT_S = 24 * 3600.0
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_MATRIX = 384
_MATMUL_S = 0.12
_COPY_BYTES = 32 * 1024 * 1024
_COPY_S = 0.1
_MAX_CGROUP_MEMORY = 1 << 50


def measure(cache_directory: Path, state_directory: Path, *, remeasure: bool = False) -> Measured:
    """Cores, memory, free disk, speed.

    Speeds come from the file of the last 24 hours if the machine is the same; a file that cannot
    be read or written only costs the measurement.
    """
    cores = usable_cores()
    memory_bytes = usable_memory_bytes()
    file = state_directory / "measured.json"
    fingerprint = _fingerprint(cores, memory_bytes)
    speeds = None if remeasure else _read(file, fingerprint)
    if speeds is None:
        speeds = (_multiply_accumulates_per_s(), _memory_bytes_per_s())
        _write(file, fingerprint, speeds)
    measured = Measured(
        cores=cores,
        memory_bytes=memory_bytes,
        multiply_accumulates_per_s=speeds[0],
        memory_bytes_per_s=speeds[1],
        disk_free_bytes=_disk_free(cache_directory),
        accelerators=tuple(
            [
                name.removesuffix("ExecutionProvider")
                for name in onnx.providers()
                # Azure's is a client of a cloud service and no part of this machine.
                if name not in {"CPUExecutionProvider", "AzureExecutionProvider"}
            ]
        ),
    )
    logger.info("measured: %s", asdict(measured))
    return measured


def usable_cores() -> int:
    """Cores this process may use: affinity and the control group's quota, at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    for text in _cgroup_files("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota != "max" and period.strip().isdigit() and int(period) > 0:
            cores = min(cores, max(1, int(quota) // int(period)))
    for quota_text, period_text in zip(
        _cgroup_files("cpu/cpu.cfs_quota_us"), _cgroup_files("cpu/cpu.cfs_period_us"), strict=False
    ):
        if int(quota_text) > 0 and int(period_text) > 0:
            cores = min(cores, max(1, int(quota_text) // int(period_text)))
    return max(1, cores)


def usable_memory_bytes() -> int:
    """Physical memory or the control group's limit, whichever is less."""
    total = psutil.virtual_memory().total
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        for text in _cgroup_files(name):
            if text.isdigit() and 0 < int(text) < _MAX_CGROUP_MEMORY:
                total = min(total, int(text))
    return total


def _cgroup_files(name: str) -> list[str]:
    """Contents of one control file in this process's group and the groups above it."""
    places = [_CGROUP_ROOT]
    try:
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, _, path = line.split(":", 2)
            place = _CGROUP_ROOT / path.lstrip("/")
            places += [place, *place.parents]
    except (OSError, ValueError):
        pass
    texts = []
    for place in dict.fromkeys(places):
        if place == _CGROUP_ROOT or _CGROUP_ROOT in place.parents:
            try:
                texts.append((place / name).read_text(encoding="ascii").strip())
            except (OSError, ValueError):
                continue
    return texts


def _multiply_accumulates_per_s() -> int:
    left = np.ones((_MATRIX, _MATRIX), dtype=np.float32)
    out = np.empty_like(left)
    best_s = _best_s(lambda: np.matmul(left, left, out=out), _MATMUL_S)
    return int(_MATRIX**3 / best_s)


def _memory_bytes_per_s() -> int:
    source = np.ones(_COPY_BYTES, dtype=np.uint8)
    target = np.zeros_like(source)
    best_s = _best_s(lambda: np.copyto(target, source), _COPY_S)
    # Every byte is read once and written once.
    return int(2 * _COPY_BYTES / best_s)


def _best_s(work: Callable[[], object], limit_s: float) -> float:
    best_s = float("inf")
    end_s = time.perf_counter() + limit_s
    while True:
        started_s = time.perf_counter()
        work()
        now_s = time.perf_counter()
        best_s = min(best_s, max(now_s - started_s, 1e-9))
        if now_s >= end_s:
            return best_s


def _disk_free(directory: Path) -> int:
    for place in (directory, *directory.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return 0


def _fingerprint(cores: int, memory_bytes: int) -> list[str | int]:
    return [
        platform.node(),
        platform.machine(),
        platform.release(),
        _processor(),
        cores,
        memory_bytes,
        np.__version__,
    ]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith(("model name", "model\t", "hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _read(file: Path, fingerprint: list[str | int]) -> tuple[int, int] | None:
    try:
        stored: object = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    match stored:
        case {
            "fingerprint": list(stored_fingerprint),
            "at_unix_s": int(at_unix_s) | float(at_unix_s),
            "multiply_accumulates_per_s": int(macs),
            "memory_bytes_per_s": int(bandwidth),
        } if stored_fingerprint == fingerprint and 0 <= time.time() - at_unix_s < KEPT_S:
            return macs, bandwidth
        case _:
            return None


def _write(file: Path, fingerprint: list[str | int], speeds: tuple[int, int]) -> None:
    text = json.dumps(
        {
            "fingerprint": fingerprint,
            "at_unix_s": time.time(),
            "multiply_accumulates_per_s": speeds[0],
            "memory_bytes_per_s": speeds[1],
        }
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        logger.warning("the measurement could not be kept in %s: %s", file, error)
