"""Registers the factory."""

from fleetspeak_resultlog.store import ResultLogFactory

resultlog = ResultLogFactory()
