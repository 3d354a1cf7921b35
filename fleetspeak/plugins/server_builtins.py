"""The server's factories that come with Fleetspeak, registered as anybody registers their own."""

from __future__ import annotations

from fleetspeak.server.authorizers import AllowAllFactory, RequiredLabelFactory
from fleetspeak.server.directoryfiles import DirectoryFilesFactory
from fleetspeak.server.notify.redisnotifier import RedisNotifierFactory
from fleetspeak.server.services.cps import CpsFactory
from fleetspeak.server.services.grpcservice import GrpcFactory, GrpcTlsFactory
from fleetspeak.server.services.noop import NoopFactory
from fleetspeak.server.services.saver import MessageSaverFactory

grpc = GrpcFactory()
grpc_tls = GrpcTlsFactory()
noop = NoopFactory()
message_saver = MessageSaverFactory()
cps = CpsFactory()
directory_files = DirectoryFilesFactory()
redis_notifier = RedisNotifierFactory()

allow_all = AllowAllFactory()
required_label = RequiredLabelFactory()
