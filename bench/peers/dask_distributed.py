"""Dask: a local cluster with one single-threaded worker process a core.

Two ways: futures through the scheduler, and actors, which Dask's documentation names for
stateful work that should bypass the scheduler. The client is asynchronous and everything runs
on uvloop, both faster than the defaults.

    python -m bench.peers.dask_distributed --model digits.onnx --way futures
"""

import asyncio
from abc import abstractmethod
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.peers.classifier import Answer, Classifier, answer_from_bytes
from bench.peers.measure import (
    AsyncCall,
    Images,
    Peer,
    Plan,
    main,
    require,
    sliding,
    timed_awaits,
)

_PACKAGE = "distributed>=2024.11"


@cache
def _classifier(model: Path) -> Classifier:
    """One session a worker process, made on its first task."""
    return Classifier(model)


def classify(model: Path, image: bytes) -> tuple[int, bytes]:
    """The task of the futures' way."""
    return _classifier(model).from_bytes(image)


class Dask(Peer):
    """Both ways of calling Dask, from one event loop."""

    package = "distributed"
    in_flight = (64, 256, 0)

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._distributed = require("distributed", _PACKAGE)
        require("dask", _PACKAGE).config.set({"distributed.admin.event-loop": "uvloop"})
        self._loop = require("uvloop", "uvloop").new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._cluster: Any = None
        self._client: Any = None

    @property
    def settings(self) -> dict[str, object]:
        return {
            "workers": self.plan.cores,
            "threads_per_worker": 1,
            "event_loop": "uvloop",
            "client": "asynchronous",
            "payload": "bytes",
        }

    def start(self) -> None:
        self._loop.run_until_complete(self._start())

    def stop(self) -> None:
        self._loop.run_until_complete(self._stop())
        self._loop.close()

    def one_by_one(self, images: Images) -> tuple[list[float], list[Answer]]:
        result: tuple[list[float], list[Answer]] = self._loop.run_until_complete(
            timed_awaits(self._call, images)
        )
        return result

    def many(self, images: Images, in_flight: int) -> list[Answer]:
        answers: list[Answer] = self._loop.run_until_complete(
            sliding(self._call, images, in_flight)
        )
        return answers

    @abstractmethod
    async def _make_call(self) -> AsyncCall:
        """The call that is measured, once the client is connected."""

    async def _start(self) -> None:
        self._cluster = await self._distributed.LocalCluster(
            n_workers=self.plan.cores,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            asynchronous=True,
        )
        self._client = await self._distributed.Client(self._cluster, asynchronous=True)
        self._call = await self._make_call()

    async def _stop(self) -> None:
        if self._client is not None:
            await self._client.close()
        if self._cluster is not None:
            await self._cluster.close()


class DaskFutures(Dask):
    """`client.submit(classify, model, image, pure=False)`, awaited."""

    name = "dask_distributed"

    async def _make_call(self) -> AsyncCall:
        client, model = self._client, self.plan.model

        async def call(image: npt.NDArray[np.float32]) -> Answer:
            future = client.submit(classify, model, image.tobytes(), pure=False)
            return answer_from_bytes(*await future)

        return call


class DaskActors(Dask):
    """`actor.from_bytes(image)`, awaited; the client speaks to the workers directly."""

    name = "dask_actor"

    async def _make_call(self) -> AsyncCall:
        workers = [nanny.worker_address for nanny in self._cluster.workers.values()]
        actors = cycle(
            [
                await self._client.submit(Classifier, self.plan.model, actor=True, workers=[worker])
                for worker in workers
            ]
        )

        async def call(image: npt.NDArray[np.float32]) -> Answer:
            return answer_from_bytes(*await next(actors).from_bytes(image.tobytes()))

        return call


if __name__ == "__main__":
    main({"futures": DaskFutures, "actors": DaskActors})
