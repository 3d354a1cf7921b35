"""Public test doubles and contract suites, for us and for authors of plug-ins."""
