"""The frontend that clients reach."""
