"""Stores a file on a server: the address of its admin API, service, name, and the path of the content."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc

from fleetspeak.pb import admin
from fleetspeak.rpc import admin as admin_rpc

address, service, name, path = sys.argv[1:]
with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
    request = admin.StoreFileRequest(service_name=service, file_name=name, data=Path(path).read_bytes())
    admin_rpc.AdminStub(channel).StoreFile(request, timeout=30)
