"""Ray actors: one actor a core, each with its own session, called in turn.

Two ways: calls that carry bytes, which Ray passes without pickling and which is the faster,
and calls that carry NumPy arrays, as most programs do. Task events, which only the state API
reads, are off: that too is faster than the default.

    python -m bench.peers.ray_actor --model digits.onnx --way bytes
"""

from collections.abc import Iterator
from itertools import cycle
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.peers.classifier import Answer, Classifier, answer_from_bytes
from bench.peers.measure import Images, Peer, Plan, main, overlapped, timed_calls
from bench.peers.ray_start import RayCluster


class RayActor(Peer):
    """`actor.from_bytes.remote(image)` and `ray.get`."""

    name = "ray_actor"
    package = "ray"
    payload = "bytes"
    in_flight = (64, 256, 1024, 0)

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._cluster: RayCluster | None = None
        self._actors: Iterator[Any] = iter(())

    @property
    def settings(self) -> dict[str, object]:
        return {"actors": self.plan.cores, "enable_task_events": False, "payload": self.payload}

    def start(self) -> None:
        self._cluster = RayCluster(self.plan.cores)
        actor = self._ray.remote(num_cpus=1, enable_task_events=False)(Classifier)
        self._actors = cycle([actor.remote(self.plan.model) for _ in range(self.plan.cores)])

    def stop(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()

    def submit(self, image: npt.NDArray[np.float32]) -> Any:
        """Calls the next actor; gives a reference to its answer."""
        return next(self._actors).from_bytes.remote(image.tobytes())

    def collect(self, references: list[Any]) -> list[Answer]:
        """Waits for the answers."""
        return [answer_from_bytes(*raw) for raw in self._ray.get(references)]

    def one_by_one(self, images: Images) -> tuple[list[float], list[Answer]]:
        return timed_calls(lambda image: self.collect([self.submit(image)])[0], images)

    def many(self, images: Images, in_flight: int) -> list[Answer]:
        return overlapped(self.submit, self.collect, images, in_flight)

    @property
    def _ray(self) -> ModuleType:
        assert self._cluster is not None, "start() comes first"
        return self._cluster.ray


class RayActorNumpy(RayActor):
    """`actor.__call__.remote(image)` and `ray.get`, arrays both ways."""

    name = "ray_actor_numpy"
    payload = "numpy"

    def submit(self, image: npt.NDArray[np.float32]) -> Any:
        return next(self._actors).__call__.remote(image)

    def collect(self, references: list[Any]) -> list[Answer]:
        answers: list[Answer] = self._ray.get(references)
        return answers


if __name__ == "__main__":
    main({"bytes": RayActor, "numpy": RayActorNumpy})
