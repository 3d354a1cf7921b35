"""Exchanging messages with a process that connects to a Unix socket of the client."""
