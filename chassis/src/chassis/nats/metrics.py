"""The duration of publishing and processing, named by OpenTelemetry's semantic conventions for messaging."""

from collections.abc import Iterable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from prometheus_client import Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from ..telemetry import Telemetry
from ..telemetry.durations import Durations

SYSTEM = "nats"
# Semantic conventions for messaging, messaging.client.operation.duration: the advised boundaries.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
LABELS = ("messaging_system", "messaging_operation_name", "messaging_destination_name")
GROUP = "messaging_consumer_group_name"
# Subjects may contain ids, which would make a series for each.
MAX_SUBJECTS = 100
OTHER = "_OTHER"


class SentKey(NamedTuple):
    """The labels of a message that was published; an empty value stands for none."""

    subject: str
    error_type: str


class ProcessedKey(NamedTuple):
    """The labels of a message that was processed. `subject` is that of the consumer, with its wildcards."""

    subject: str
    consumer: str
    error_type: str


class SentMessages(Durations[SentKey]):
    """Messages that were published. Beyond `MAX_SUBJECTS`, they are counted together."""

    def __init__(self) -> None:
        super().__init__(SECONDS)
        self._subjects: set[str] = set()

    def _bounded(self, key: SentKey) -> SentKey:
        if key.subject not in self._subjects:
            if len(self._subjects) >= MAX_SUBJECTS:
                return SentKey(OTHER, key.error_type)
            self._subjects.add(key.subject)
        return key

    def collect(self) -> Iterable[Metric]:
        """The metrics that prometheus-client exposes."""
        labels = (*LABELS, "error_type")
        durations = HistogramMetricFamily(
            "messaging_client_operation_duration_seconds", "Duration of publishing a message.", labels=labels
        )
        self.add_to(durations, SYSTEM, "publish")
        sent = CounterMetricFamily("messaging_client_sent_messages", "Messages that were published.", labels=labels)
        for key, (counts, _, _) in list(self._series.items()):
            sent.add_metric((SYSTEM, "publish", *key), sum(counts))
        return (durations, sent)


class ProcessedMessages(Durations[ProcessedKey]):
    """Messages that were processed. A service has few consumers, and their subjects have no values."""

    def __init__(self) -> None:
        super().__init__(SECONDS)

    def _bounded(self, key: ProcessedKey) -> ProcessedKey:
        return key

    def collect(self) -> Iterable[Metric]:
        """The metrics that prometheus-client exposes."""
        labels = (*LABELS, GROUP, "error_type")
        durations = HistogramMetricFamily(
            "messaging_process_duration_seconds", "Duration of processing a message.", labels=labels
        )
        self.add_to(durations, SYSTEM, "process")
        consumed = CounterMetricFamily(
            "messaging_client_consumed_messages", "Messages that were delivered to a consumer.", labels=labels
        )
        for key, (counts, _, _) in list(self._series.items()):
            consumed.add_metric((SYSTEM, "process", *key), sum(counts))
        return (durations, consumed)


class MessagingMetrics:
    """The metrics of publishing and processing in one registry."""

    def __init__(self, telemetry: Telemetry) -> None:
        registry = telemetry.metrics.registry
        self.sent: SentMessages = SentMessages()
        self.processed: ProcessedMessages = ProcessedMessages()
        registry.register(self.sent)
        registry.register(self.processed)
        self.in_hand: Gauge = Gauge(
            "messaging_consumer_active_messages", "Messages that are being processed.", [GROUP], registry=registry
        )
        self.dead_letters: Counter = Counter(
            "messaging_dead_letters", "Messages that went to the dead letters.", [GROUP], registry=registry
        )

    @classmethod
    def of(cls, telemetry: Telemetry) -> "MessagingMetrics":
        """The metrics in the registry of `telemetry`."""
        metrics = _metrics.get(telemetry)
        if metrics is None:
            metrics = _metrics[telemetry] = cls(telemetry)
        return metrics


_metrics: WeakKeyDictionary[Telemetry, MessagingMetrics] = WeakKeyDictionary()
