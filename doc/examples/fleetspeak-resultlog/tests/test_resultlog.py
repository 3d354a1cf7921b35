"""Run with: trial tests"""

import json
from pathlib import Path

from fleetspeak_resultlog.store import ResultLogFactory
from twisted.internet import reactor
from twisted.trial.unittest import TestCase
from zope.interface import providedBy
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError, StoreError
from fleetspeak.interfaces import IStore, IStoreFactory
from fleetspeak.pb import common
from fleetspeak.records import Exchange, ResultUpdate
from fleetspeak.store.outcome import only
from fleetspeak.testing.serverside import message_from_client
from fleetspeak.testing.storecontract import StoreClock, StoreContract


def make(path, clock):
    argument = f"{path}.jsonl,sqlite:{path}.sqlite"
    return ResultLogFactory().make(argument, reactor, clock.now_ns, clock.uniform)


class ResultLogContract(StoreContract, TestCase):
    """All that Fleetspeak expects of a store."""

    def make_store(self):
        return make(self.mktemp(), self.clock)


class ResultLogTests(TestCase):
    """What this one does beside that."""

    async def setUp(self):
        self.path = self.mktemp()
        self.log = Path(f"{self.path}.jsonl")
        self.store = make(self.path, StoreClock())
        await self.store.open()
        self.addCleanup(self.store.close)

    def ids(self):
        return [json.loads(line)["message_id"] for line in self.log.read_text().splitlines()]

    async def test_interfaces(self):
        verifyObject(IStoreFactory, ResultLogFactory())
        for interface in providedBy(self.store.original):
            verifyObject(interface, self.store)
        verifyObject(IStore, self.store)

    async def test_results_are_written_down_and_nothing_else(self):
        first, second, third, pending = (message_from_client() for _ in range(4))
        for message in (first, second):
            message.result.processed_time.FromSeconds(1)
        await only(self.store.exchange([Exchange([first, pending])]))
        await self.store.store_messages([second, third])
        failed = common.MessageResult(failed=True, failed_reason="why")
        failed.processed_time.FromSeconds(2)
        await self.store.set_message_results([ResultUpdate(third.message_id, failed)])
        self.assertEqual(self.ids(), [message.message_id.hex() for message in (first, second, third)])
        self.assertEqual(json.loads(self.log.read_text().splitlines()[-1])["failed"], "why")

    async def test_what_the_store_refuses_is_not_written_down(self):
        unfit = message_from_client()
        unfit.result.processed_time.FromSeconds(1)
        unfit.ClearField("creation_time")
        [outcome] = await self.store.exchange([Exchange([unfit])])
        self.assertIsInstance(outcome, StoreError)
        self.assertEqual(self.ids(), [])

    async def test_a_file_that_fails_fails_the_call_which_may_be_made_again(self):
        message = message_from_client()
        message.result.processed_time.FromSeconds(1)
        self.log.unlink()
        self.log.mkdir()
        with self.assertRaises(StoreError):
            await self.store.exchange([Exchange([message])])
        self.log.rmdir()
        await only(self.store.exchange([Exchange([message])]))
        self.assertEqual(self.ids(), [message.message_id.hex()])

    async def test_a_file_that_cannot_be_written_is_said_at_the_start(self):
        clock = StoreClock()
        argument = f"/no/such/folder/log,sqlite:{self.mktemp()}"
        store = ResultLogFactory().make(argument, reactor, clock.now_ns, clock.uniform)
        with self.assertRaises(ConfigError):
            await store.open()

    async def test_a_wrong_argument(self):
        for argument, said in (("", "takes a file"), ("/file", "takes a file"), ("/file,cloud:x", "there is no cloud")):
            with self.assertRaises(ConfigError) as caught:
                ResultLogFactory().make(argument, reactor, None, None)
            self.assertIn(said, str(caught.exception))
