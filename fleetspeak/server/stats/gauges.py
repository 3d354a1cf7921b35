"""What is not counted but looked at whenever Prometheus asks."""

from __future__ import annotations

import resource

from fleetspeak import __version__
from fleetspeak.interfaces import IStore
from fleetspeak.server.cache import ClientCache
from fleetspeak.server.services.manager import ServiceManager
from fleetspeak.server.stats.collector import MetricsCollector


def watch_server(collector: MetricsCollector, store: IStore, manager: ServiceManager, cache: ClientCache) -> None:
    """Expose how full the queues and lines of a server are.

    @param store: its queues are looked at if it has the method `waiting` of `fleetspeak.store.sql.store.SqlStore`.
    """
    waiting = getattr(store, "waiting", None)
    if waiting is not None:
        collector.watch(
            "fleetspeak_store_queue_calls",
            "Calls that wait for a worker of the store.",
            lambda: {(worker,): calls for worker, (calls, _) in waiting().items()},
            ("worker",),
        )
        collector.watch(
            "fleetspeak_store_queue_bytes",
            "Bytes of the calls that wait for a worker of the store.",
            lambda: {(worker,): size for worker, (_, size) in waiting().items()},
            ("worker",),
        )
    collector.watch(
        "fleetspeak_service_messages_running",
        "Messages, or lists of them, that a service is processing.",
        lambda: {(service,): running for service, (running, _) in manager.load().items()},
        ("service",),
    )
    collector.watch(
        "fleetspeak_service_messages_waiting",
        "Messages that wait in line for a service.",
        lambda: {(service,): in_line for service, (_, in_line) in manager.load().items()},
        ("service",),
    )
    collector.watch("fleetspeak_client_cache_entries", "Clients that are remembered.", lambda: len(cache))
    collector.watch(
        "process_virtual_memory_max_bytes",
        "Maximum amount of virtual memory available in bytes.",
        lambda: float(resource.getrlimit(resource.RLIMIT_AS)[0] % 2**64),  # without a limit all bits are set
    )
    collector.watch("fleetspeak_build_info", "Always 1.", lambda: {(__version__,): 1}, ("version",))
