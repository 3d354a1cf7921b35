"""The generated protobuf modules, by short names.  Everyone imports them from here.

Importing this module registers every message type with the default descriptor pool, so that an `Any`
in a text-format configuration file can be expanded.  The gRPC stubs are in `fleetspeak.rpc`, because only the
server side has grpcio installed.
"""

from __future__ import annotations

from fleetspeak.src.client.channel.proto.fleetspeak_channel import channel_pb2 as channel
from fleetspeak.src.client.daemonservice.proto.fleetspeak_daemonservice import config_pb2 as daemon_config
from fleetspeak.src.client.daemonservice.proto.fleetspeak_daemonservice import messages_pb2 as daemon
from fleetspeak.src.client.generic.proto.fleetspeak_client_generic import config_pb2 as client_config
from fleetspeak.src.client.proto.fleetspeak_client import api_pb2 as client_api
from fleetspeak.src.client.proto.fleetspeak_client import client_pb2 as client
from fleetspeak.src.client.socketservice.proto.fleetspeak_socketservice import config_pb2 as socket_config
from fleetspeak.src.client.stdinservice.proto.fleetspeak_stdinservice import config_pb2 as stdin_config
from fleetspeak.src.client.stdinservice.proto.fleetspeak_stdinservice import messages_pb2 as stdin
from fleetspeak.src.common.proto.fleetspeak import common_pb2 as common
from fleetspeak.src.common.proto.fleetspeak import system_pb2 as system
from fleetspeak.src.common.proto.fleetspeak_monitoring import resource_pb2 as monitoring
from fleetspeak.src.config.proto.fleetspeak_config import config_pb2 as configurator
from fleetspeak.src.inttesting.frr.proto.fleetspeak_frr import frr_pb2 as frr
from fleetspeak.src.operator.proto.fleetspeak_operator import access_pb2 as access
from fleetspeak.src.operator.proto.fleetspeak_operator import operator_pb2 as operator
from fleetspeak.src.server.components.proto.fleetspeak_components import config_pb2 as components
from fleetspeak.src.server.cpsservice.proto.fleetspeak_cpsservice import cpsservice_pb2 as cpsservice
from fleetspeak.src.server.grpcservice.proto.fleetspeak_grpcservice import grpcservice_pb2 as grpcservice
from fleetspeak.src.server.grpctlsservice.proto.fleetspeak_grpctlsservice import grpctlsservice_pb2 as grpctlsservice
from fleetspeak.src.server.proto.fleetspeak_server import admin_pb2 as admin
from fleetspeak.src.server.proto.fleetspeak_server import broadcasts_pb2 as broadcasts
from fleetspeak.src.server.proto.fleetspeak_server import resource_pb2 as resource
from fleetspeak.src.server.proto.fleetspeak_server import server_pb2 as server
from fleetspeak.src.server.proto.fleetspeak_server import services_pb2 as services

__all__ = [
    "access",
    "admin",
    "broadcasts",
    "channel",
    "client",
    "client_api",
    "client_config",
    "common",
    "components",
    "configurator",
    "cpsservice",
    "daemon",
    "daemon_config",
    "frr",
    "grpcservice",
    "grpctlsservice",
    "monitoring",
    "operator",
    "resource",
    "server",
    "services",
    "socket_config",
    "stdin",
    "stdin_config",
    "system",
]
