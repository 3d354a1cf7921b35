"""Registers the factory."""

from fleetspeak_facts.service import FactsFactory

facts = FactsFactory()
