"""The generated gRPC stubs and servicers, by short names.  Needs grpcio (the `server` extra)."""

from __future__ import annotations

from fleetspeak.src.inttesting.frr.proto.fleetspeak_frr import frr_pb2_grpc as frr
from fleetspeak.src.operator.proto.fleetspeak_operator import operator_pb2_grpc as operator
from fleetspeak.src.server.grpcservice.proto.fleetspeak_grpcservice import grpcservice_pb2_grpc as grpcservice
from fleetspeak.src.server.proto.fleetspeak_server import admin_pb2_grpc as admin

__all__ = ["admin", "frr", "grpcservice", "operator"]
