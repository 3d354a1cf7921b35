"""Child processes of client services."""
