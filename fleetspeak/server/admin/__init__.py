"""The admin gRPC API."""
