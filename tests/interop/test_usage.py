"""What our client tells of its processes, as both servers understand it."""

from __future__ import annotations

import time
from unittest import TestCase

import grpc

from fleetspeak import rpc
from fleetspeak.pb import admin, resource
from tests.programs import eventually

from .fleet import OURS, STREAMING, UPSTREAM, Client, Fleet, Kind, hello


class ResourceUsage(TestCase):
    """Issue 3, point 4: reports as upstream's server expects them; ours keeps the same records of them."""

    def check(self, server_kind: Kind) -> None:
        fleet = Fleet(OURS, (OURS,))
        self.addCleanup(fleet.clean_up)
        fleet.server(server_kind).start()
        client = fleet.client(OURS, "watched", STREAMING)
        service = client.folder / "etc" / "textservices" / hello(OURS)
        sampled = "resource_monitoring_sample_size: 2 resource_monitoring_sample_period { nanos: 200000000 }"
        service.write_text(service.read_text().replace("disable_resource_monitoring: true", sampled))
        client.start()
        channel = grpc.insecure_channel(fleet.deployment.admin_address)
        self.addCleanup(channel.close)
        stub = rpc.admin.AdminStub(channel)
        running = eventually(lambda: self.records(stub, client, terminated=False)[1:], "the server has usage records")
        client.stop()
        (last,) = eventually(lambda: self.records(stub, client, terminated=True), "the server has the last record")
        for record in running:
            self.assertEqual((record.scope, record.pid), (hello(OURS), last.pid))
            self.assertTrue(1 < record.mean_resident_memory_mib <= record.max_resident_memory_mib < 500, record)
            self.assertGreater(record.max_num_fds, 3)
            self.assertEqual(record.process_start_time, last.process_start_time)
            self.assertAlmostEqual(record.client_timestamp.seconds, record.server_timestamp.seconds, delta=20)

    def records(
        self, stub: rpc.admin.AdminStub, client: Client, *, terminated: bool
    ) -> list[resource.ClientResourceUsageRecord]:
        request = admin.FetchClientResourceUsageRecordsRequest(client_id=client.client_id)
        request.start_timestamp.FromSeconds(0)
        request.end_timestamp.FromSeconds(int(time.time()) + 3600)
        records = stub.FetchClientResourceUsageRecords(request, timeout=10).records
        return [record for record in records if record.process_terminated == terminated]

    def test_upstream_server(self) -> None:
        self.check(UPSTREAM)

    def test_our_server(self) -> None:
        self.check(OURS)
