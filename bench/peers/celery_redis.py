"""Celery: one prefork process a core, Redis as broker and result backend.

Redis comes from the system's package (redis-server) and runs without persistence on a free
loopback port; worker and Redis end with the measurement.

    python -m bench.peers.celery_redis --model digits.onnx
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.peers.celery_settings import MODEL, PACKAGE, REDIS_URL, SETTINGS
from bench.peers.classifier import Answer, answer_from_bytes
from bench.peers.measure import (
    Images,
    MissingError,
    Peer,
    Plan,
    free_port,
    main,
    overlapped,
    require,
    timed_calls,
)

_START_TIMEOUT_S = 30
_TASK_TIMEOUT_S = 60


class CeleryRedis(Peer):
    """`classify.delay(image).get()`."""

    name = "celery_redis"
    package = "celery"
    in_flight = (64, 256, 0)

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        require("celery", PACKAGE)
        require("redis", PACKAGE)
        self._folder = Path(tempfile.mkdtemp(prefix="celery-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._producer: Any = None

    @property
    def settings(self) -> dict[str, object]:
        return {"pool": "prefork", "concurrency": self.plan.cores, **SETTINGS}

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise MissingError("redis-server is not on PATH; install the package redis-server")
        port = free_port()
        os.environ[REDIS_URL] = f"redis://127.0.0.1:{port}/0"
        os.environ[MODEL] = str(self.plan.model)
        redis = f"--bind 127.0.0.1 --port {port} --appendonly no".split()
        self._run([program, *redis, "--save", "", "--dir", str(self._folder)], "redis")
        self._wait_for_redis(port)
        worker = "-m celery -A bench.peers.celery_tasks:application worker --pool prefork"
        quiet = "--without-gossip --without-mingle --without-heartbeat --loglevel ERROR"
        concurrency = f"--concurrency {self.plan.cores}"
        self._run([sys.executable, *f"{worker} {concurrency} {quiet}".split()], "worker")
        from bench.peers.celery_tasks import application, classify

        self._task = classify
        self._application = application
        self._producer = application.amqp.Producer(application.connection_for_write())
        # The worker is ready when it has answered; until then the task waits in Redis.
        first = self.submit(np.zeros(64, np.float32))
        try:
            self.collect([first])
        except application.backend.TimeoutError as error:
            log = (self._folder / "worker.log").read_text(errors="replace")
            raise RuntimeError(f"the Celery worker did not answer:\n{log}") from error

    def stop(self) -> None:
        if self._producer is not None:
            self._producer.connection.close()
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def submit(self, image: npt.NDArray[np.float32]) -> Any:
        """Publishes one task through a producer kept open; gives its result's handle."""
        return self._task.apply_async((image.tobytes(),), producer=self._producer)

    def collect(self, results: list[Any]) -> list[Answer]:
        """Waits for the answers."""
        return [answer_from_bytes(*r.get(timeout=_TASK_TIMEOUT_S)) for r in results]

    def one_by_one(self, images: Images) -> tuple[list[float], list[Answer]]:
        return timed_calls(lambda image: self.collect([self.submit(image)])[0], images)

    def many(self, images: Images, in_flight: int) -> list[Answer]:
        return overlapped(self.submit, self.collect, images, in_flight)

    def _run(self, command: list[str], name: str) -> None:
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            self._processes.append(
                subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            )

    def _wait_for_redis(self, port: int) -> None:
        redis = require("redis", PACKAGE)
        client = redis.Redis(host="127.0.0.1", port=port)
        deadline = time.monotonic() + _START_TIMEOUT_S
        with client:
            while not _answers(client, redis.ConnectionError):
                if self._processes[0].poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "redis.log").read_text(errors="replace")
                    raise RuntimeError(f"redis-server did not start:\n{log}")
                time.sleep(0.05)


def _answers(client: Any, refusal: type[Exception]) -> bool:
    try:
        client.ping()
    except refusal:
        return False
    return True


if __name__ == "__main__":
    main({"prefork": CeleryRedis})
