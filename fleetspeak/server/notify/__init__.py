"""How servers tell each other that there is something for a client."""
