"""/metrics: what an operator watches, in the Prometheus text format. Read from the store at each scrape."""

from collections.abc import Callable, Iterator, Mapping

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from service.deps import PartsDep, needs
from service.store import gauges
from service.store.gauges import Readings

router = APIRouter(tags=["health"])
_PREFIX = "unlearning_"


class _Store(Collector):
    """Figures of one moment. Labels are statuses, kinds, methods and workers, never anything a caller named."""

    def __init__(self, read: Callable[[], Readings]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        found = self._read()
        yield _by("deletion_requests_open", "Open deletion requests.", "status", found.requests_by_status)
        yield _one("deletion_requests_overdue", "Open deletion requests past their due date.", found.overdue)
        yield _one("deletion_requests_due_soon", "Open deletion requests due within 7 days.", found.due_soon)
        oldest = "Seconds since the oldest open deletion request was received."
        yield _one("deletion_requests_oldest_open_age_seconds", oldest, found.oldest_open_age)
        yield _by("jobs_queued", "Jobs in the queue.", "kind", found.queue_by_kind)
        waited = "Seconds since the oldest job in the queue was made."
        yield _by("jobs_oldest_queued_age_seconds", waited, "kind", found.oldest_queued_age_by_kind)
        yield _by("jobs_stuck", "Jobs that wait for a person.", "status", found.stuck_by_status)
        yield from _of_workers(found)
        yield _one("versions_awaiting_purge", "Retired versions whose bytes a sweep did not delete.", found.undeletable)
        yield _one("erasures_unjournaled", "Erased ids that the journal has not yet.", found.unjournaled)
        yield _one("restore_pending", "1 while a restored database waits for its replay.", found.restore_pending)
        yield _one("webhook_deliveries_dead", "Webhook deliveries given up.", found.webhooks_dead)
        yield _one("webhook_deliveries_pending", "Webhook deliveries on their way.", found.webhooks_pending)
        yield _one("audit_log_entries", "Entries of the audit log.", found.log_size)
        yield _one("audit_checkpoint_entries", "Entries that the newest checkpoint covers.", found.checkpoint_size)
        yield _one("audit_checkpoint_age_seconds", "Seconds since a checkpoint was signed.", found.checkpoint_age)


def _of_workers(found: Readings) -> Iterator[Metric]:
    yield _one("workers_alive", "Workers that gave a sign of life.", found.workers)
    yield _by("workers", "Workers seen within a day.", "state", found.workers_by_state)
    memory = GaugeMetricFamily(_PREFIX + "gpu_memory_bytes", "Memory of a worker's GPU.", labels=["worker", "of"])
    for worker, (used, total) in found.gpu_memory.items():
        memory.add_metric([worker, "used"], used)
        memory.add_metric([worker, "total"], total)
    yield memory
    yield CounterMetricFamily(_PREFIX + "leases_lost", "Attempts whose worker went silent.", value=found.leases_lost)
    not_kept = "States of trainings that could not be kept, while these went on."
    yield CounterMetricFamily(_PREFIX + "training_checkpoints_not_kept", not_kept, value=found.checkpoints_not_kept)
    verdicts = CounterMetricFamily(_PREFIX + "gate_verdicts", "Evaluations by the gate's verdict.", labels=["verdict"])
    for verdict, count in found.verdicts.items():
        verdicts.add_metric([verdict], count)
    yield verdicts
    attempts = SummaryMetricFamily(
        _PREFIX + "attempt_seconds", "Attempts that ended, and their seconds.", labels=["method", "outcome"]
    )
    for each in found.attempts:
        attempts.add_metric([each.method, each.outcome], count_value=each.count, sum_value=each.seconds)
    yield attempts


def _one(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


@router.get(
    "/metrics", operation_id="get_metrics", dependencies=[needs("metrics:read")], response_class=PlainTextResponse
)
def metrics(parts: PartsDep) -> Response:
    """Return the gauges of requests, queue and log for a scraper, which sends its key as a bearer token."""

    def read() -> Readings:
        with parts.database.reading() as session:
            return gauges.read(session, sweep_seconds=parts.settings.sweep_seconds)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Store(read))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
