"""Writes what was counted in the text format of Prometheus.

The one module that needs `prometheus_client`, which is an extra: it is imported only if metrics are configured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.core.series import Metric, Reading
from fleetspeak.server.sharing import Shared

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

LEAST_AGE = 1.0
"""Seconds for which a page counts: so often is one written at most, however many ask."""

log = Logger()


class Exposition:
    """Writes pages in a thread, one at a time, for all who ask meanwhile.

    In the reactor there is only a copy of what was counted, which is bounded by the number of cells.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[Reading]],
        in_thread: Callable[[Callable[[], bytes]], Deferred[bytes]],
        seconds: Callable[[], float],
    ) -> None:
        """
        @param read: gives what was counted.
        @param in_thread: calls a function in a thread; fires with what it gives.
        @param seconds: a steady clock.
        """
        self._read = read
        self._in_thread = in_thread
        self._process = ProcessCollector(registry=None)
        self._pages = Shared(self._begin, LEAST_AGE, seconds)

    def page(self) -> Deferred[bytes]:
        """A page that is no older than `LEAST_AGE`.  May be cancelled."""
        return self._pages.get()

    def _begin(self) -> Deferred[bytes]:
        readings = self._read()
        return self._in_thread(lambda: self._write(readings)).addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        log.failure("cannot write the metrics", failure=failure)
        return failure

    def _write(self, readings: Sequence[Reading]) -> bytes:
        return write(readings) + generate_latest(_Only(self._process.collect()))


class _Only(Collector):
    """What `generate_latest` takes, with some families."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def write(readings: Iterable[Reading]) -> bytes:
    """`readings` as text."""
    return b"".join(_text(reading, index) for reading in readings for index in range(len(reading.metrics)))


def _text(reading: Reading, index: int) -> bytes:
    metric = reading.metrics[index]
    text = generate_latest(_Only([_family(reading, index)]))
    if metric.type == "counter":  # see _counter
        text = text.replace(b" untyped\n", b" counter\n", 1)
    return text


def _family(reading: Reading, index: int) -> Family:
    metric = reading.metrics[index]
    rows = ((values, cell[index]) for values, cell in reading.rows)
    if metric.type == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=reading.labels)
        for values, counted in rows:
            buckets = [("+Inf" if bound == inf else f"{bound:g}", count) for bound, count in counted.cumulative()]
            histogram.add_metric(values, buckets, counted.total)
        return histogram
    if metric.type == "gauge":
        gauge = GaugeMetricFamily(metric.name, metric.help, labels=reading.labels)
        for values, value in rows:
            gauge.add_metric(values, value)
        return gauge
    return _counter(metric, reading.labels, rows)


def _counter(metric: Metric, labels: Sequence[str], rows: Iterator[tuple[Sequence[str], float]]) -> Family:
    """A counter under exactly its name: the library's own kind gives every name the ending ``_total``."""
    family = Family(metric.name, metric.help, "untyped")
    for values, value in rows:
        family.add_sample(metric.name, dict(zip(labels, values, strict=True)), value)
    return family
