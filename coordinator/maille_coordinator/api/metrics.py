"""/metrics: the coordinator's numbers for Prometheus."""

import math
from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from maille_coordinator.api.context import Context
from maille_coordinator.api.errors import described
from maille_coordinator.service import Service


class ServiceCollector(Collector):
    """Asks the coordinator when Prometheus asks; keeps nothing."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """All metrics, now."""
        for name, value in self._service.counters().items():
            text = name.removesuffix("_total").replace("_", " ")
            if name.endswith("_total"):
                yield CounterMetricFamily(f"maille_{name}", f"Number of {text}.", value=value)
            else:
                yield GaugeMetricFamily(f"maille_{name}", f"Now: {text}.", value=value)
        for name, found in self._service.latencies().items():
            buckets = [(_bound_text(bound), float(count)) for bound, count in found.buckets]
            family = HistogramMetricFamily(
                f"maille_{name}", f"Distribution of {name.replace('_', ' ')}."
            )
            family.add_metric([], buckets, found.sum_s)
            yield family


def _bound_text(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else repr(float(bound))


def router(context: Context) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["mesh"], responses=described())
    # Of this application alone: several may live in one process.
    registry = CollectorRegistry()
    registry.register(ServiceCollector(context.service))

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus's format."}},
    )
    async def metrics() -> Response:
        """Counters, gauges and histograms, all named `maille_...`."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes
