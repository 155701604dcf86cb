"""The Celery application: the task, and the settings that the optimising guide names.

It is a module of its own because the worker imports it; both sides read the Redis address
from the environment.
"""

import os
from functools import cache
from pathlib import Path

from bench.peers.celery_settings import MODEL, PACKAGE, REDIS_URL, SETTINGS
from bench.peers.classifier import Classifier
from bench.peers.measure import require

application = require("celery", PACKAGE).Celery(
    "digits", broker=os.environ[REDIS_URL], backend=os.environ[REDIS_URL]
)
application.conf.update(SETTINGS)


@cache
def _classifier() -> Classifier:
    """One session a worker process, made on its first task."""
    return Classifier(Path(os.environ[MODEL]))


def _classify(image: bytes) -> tuple[int, bytes]:
    """Classifies one image, float32 bytes."""
    return _classifier().from_bytes(image)


classify = application.task(name="classify")(_classify)
