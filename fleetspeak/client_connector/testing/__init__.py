"""Services to test clients with; each runs as a program of its own."""
