"""The library that client-side service processes import."""
