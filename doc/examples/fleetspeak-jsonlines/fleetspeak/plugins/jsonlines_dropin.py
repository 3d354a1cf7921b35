"""Registers the factory: Fleetspeak looks for objects, not classes, in the modules of this folder."""

from fleetspeak_jsonlines.service import JsonLinesFactory

json_lines = JsonLinesFactory()
