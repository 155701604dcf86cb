"""Ray Serve: one replica a core, through a deployment handle or over HTTP.

The two environment variables are those of Ray's page on high throughput:
`RAY_SERVE_THROUGHPUT_OPTIMIZED` (user code and router in one event loop, gRPC between handle
and replica, buffered logs) and, for HTTP, `RAY_SERVE_ENABLE_HA_PROXY`.

    python -m bench.peers.ray_serve --model digits.onnx --way http
"""

import asyncio
import logging
import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.peers.classifier import Answer, Classifier, answer_from_bytes
from bench.peers.measure import (
    AsyncCall,
    Images,
    Peer,
    Plan,
    free_port,
    main,
    require,
    sliding,
    timed_awaits,
)
from bench.peers.ray_start import PACKAGE, RayCluster

_MAX_ONGOING_REQUESTS = 256
_LABEL_BYTES = 8


class Replica:
    """The deployment: takes and gives bytes, whether from a handle or as an HTTP body."""

    def __init__(self, model: Path) -> None:
        self._classifier = Classifier(model)

    async def classify(self, image: bytes) -> tuple[int, bytes]:
        return self._classifier.from_bytes(image)

    async def __call__(self, request: Any) -> Any:
        from starlette.responses import Response

        label, probabilities = self._classifier.from_bytes(await request.body())
        return Response(
            label.to_bytes(_LABEL_BYTES) + probabilities, media_type="application/octet-stream"
        )


class RayServe(Peer):
    """Both ways of calling Serve; each keeps `in_flight` calls open from one event loop."""

    package = "ray"
    in_flight = (16, 64, 256)
    environment: Mapping[str, str] = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        # Read by Serve's modules when they are imported, so before `require`.
        os.environ.update(self.environment)
        self._cluster: RayCluster | None = None
        self._serve: ModuleType | None = None
        self._handle: Any = None
        self._loop = asyncio.new_event_loop()

    @property
    def settings(self) -> dict[str, object]:
        return {
            "replicas": self.plan.cores,
            "max_ongoing_requests": _MAX_ONGOING_REQUESTS,
            **self.environment,
            "payload": "bytes",
        }

    def start(self) -> None:
        self._cluster = RayCluster(self.plan.cores)
        self._serve = serve = require("ray.serve", PACKAGE)
        self._port = free_port()
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(http_options={"host": "127.0.0.1", "port": self._port})
        deployment = serve.deployment(
            num_replicas=self.plan.cores,
            max_ongoing_requests=_MAX_ONGOING_REQUESTS,
            ray_actor_options={"num_cpus": 1},
        )(Replica)
        self._handle = serve.run(deployment.bind(self.plan.model), name="digits")

    def stop(self) -> None:
        if self._serve is not None:
            # Serve's router lives in this loop, so the loop must run while it ends.
            self._loop.run_until_complete(self._serve.shutdown_async())
        if self._cluster is not None:
            self._cluster.stop()
        self._loop.close()

    @abstractmethod
    async def _open(self) -> AsyncCall:
        """Makes the call that is measured; called inside the event loop."""

    async def _close(self) -> None:
        """Gives back what `_open` took."""

    def one_by_one(self, images: Images) -> tuple[list[float], list[Answer]]:
        async def run() -> tuple[list[float], list[Answer]]:
            result = await timed_awaits(await self._open(), images)
            await self._close()
            return result

        return self._loop.run_until_complete(run())

    def many(self, images: Images, in_flight: int) -> list[Answer]:
        async def run() -> list[Answer]:
            answers = await sliding(await self._open(), images, in_flight)
            await self._close()
            return answers

        return self._loop.run_until_complete(run())


class RayServeHandle(RayServe):
    """`handle.classify.remote(image)`, awaited."""

    name = "ray_serve"

    async def _open(self) -> AsyncCall:
        method = self._handle.classify

        async def call(image: npt.NDArray[np.float32]) -> Answer:
            return answer_from_bytes(*await method.remote(image.tobytes()))

        return call


class RayServeHttp(RayServe):
    """POST over kept-alive connections, through the HAProxy that Serve brings.

    Serve's own proxy, written in Python, is several times slower.
    """

    name = "ray_serve_http"
    environment: Mapping[str, str] = {**RayServe.environment, "RAY_SERVE_ENABLE_HA_PROXY": "1"}

    async def _open(self) -> AsyncCall:
        aiohttp = require("aiohttp", PACKAGE)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        url = f"http://127.0.0.1:{self._port}/"

        async def call(image: npt.NDArray[np.float32]) -> Answer:
            async with self._session.post(url, data=image.tobytes()) as response:
                response.raise_for_status()
                body: bytes = await response.read()
            label = int.from_bytes(body[:_LABEL_BYTES])
            return answer_from_bytes(label, body[_LABEL_BYTES:])

        return call

    async def _close(self) -> None:
        await self._session.close()


if __name__ == "__main__":
    main({"handle": RayServeHandle, "http": RayServeHttp})
