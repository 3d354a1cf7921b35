"""Client services: their manager and the built-in kinds."""
