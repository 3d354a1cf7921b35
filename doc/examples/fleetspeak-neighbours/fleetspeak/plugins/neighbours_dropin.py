"""Registers the factory."""

from fleetspeak_neighbours.notifier import NeighboursFactory

neighbours = NeighboursFactory()
