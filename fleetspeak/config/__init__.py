"""Reading and checking configuration files."""
