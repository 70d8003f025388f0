"""Counters for Prometheus."""

from collections.abc import Callable

import prometheus_client as prometheus

# From a cached answer on an accelerator to a queue on a small CPU.
_SECONDS = (
  *(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
  *(0.5, 1.0, 2.0, 5.0, 10.0),
)


class Metrics:
  """One server's; `text` is what GET /metrics answers.

  Attributes:
    requests: by route and status; 499 is a client that went away.
    seconds: from the last byte of a request to its answer, by route.
    batches: searches, by batch size.
    batched: users in them; the rest of each batch was empty.
    search_seconds: of one batch.
    swaps: by result, "done" or "refused".
  """

  def __init__(self, queue_length: Callable[[], int]):
    registry = prometheus.CollectorRegistry()
    prometheus.ProcessCollector(registry=registry)
    prometheus.GCCollector(registry=registry)
    self._registry = registry
    self.requests = prometheus.Counter(
      "holorec_requests",
      "HTTP requests.",
      ["route", "status"],
      registry=registry,
    )
    self.seconds = prometheus.Histogram(
      "holorec_request_seconds",
      "Seconds of a request.",
      ["route"],
      buckets=_SECONDS,
      registry=registry,
    )
    self.batches = prometheus.Counter(
      "holorec_batches", "Batches searched.", ["size"], registry=registry
    )
    self.batched = prometheus.Counter(
      "holorec_batched_users", "Users in the batches.", registry=registry
    )
    self.search_seconds = prometheus.Histogram(
      "holorec_search_seconds",
      "Seconds of one batch's search.",
      buckets=_SECONDS,
      registry=registry,
    )
    self.swaps = prometheus.Counter(
      "holorec_swaps", "Bundles offered.", ["result"], registry=registry
    )
    self._bundle = prometheus.Gauge(
      "holorec_bundle_info",
      "1 for the bundle that answers.",
      ["bundle"],
      registry=registry,
    )
    prometheus.Gauge(
      "holorec_queue_length", "Requests that wait.", registry=registry
    ).set_function(queue_length)

  def set_bundle(self, version: str) -> None:
    self._bundle.clear()
    self._bundle.labels(version).set(1)

  def text(self) -> bytes:
    return prometheus.generate_latest(self._registry)
