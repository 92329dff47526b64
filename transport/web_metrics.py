"""Metrics: a listener's counters, as Prometheus reads them.

Here: their names. Not here: counting (`admission.py`, `sessions/link.py`), serving (`web.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from .listener import Listener


class ListenerCollector(Collector):
    """A listener's figures."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now."""
        listener = self._listener
        refusals = CounterMetricFamily(
            "covey_refusals", "What the listener refused, by reason", labels=["reason"]
        )
        for reason, count in sorted(listener.refusals.counts.items()):
            refusals.add_metric([reason], count)
        yield refusals
        yield GaugeMetricFamily(
            "covey_strangers", "Connections without a proven name", value=len(listener.admission)
        )
        yield GaugeMetricFamily("covey_sessions", "Open sessions", value=len(listener.sessions))
        sent, received = listener.carried_bytes
        carried = CounterMetricFamily(
            "covey_carried_bytes", "Bytes of envelopes in sessions", labels=["direction"]
        )
        carried.add_metric(["sent"], sent)
        carried.add_metric(["received"], received)
        yield carried


def metrics_page(listener: Listener) -> tuple[bytes, str]:
    """The page of a listener's figures, and its content type."""
    registry = CollectorRegistry()
    registry.register(ListenerCollector(listener))
    return generate_latest(registry), CONTENT_TYPE_LATEST
