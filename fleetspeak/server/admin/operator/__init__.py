"""What the RPCs of `fleetspeak.operator.Operator` do, by topic.  All in the reactor's thread; none of it knows grpc.

Each coroutine is named as its RPC, as in `fleetspeak.server.admin.operations`.
"""
