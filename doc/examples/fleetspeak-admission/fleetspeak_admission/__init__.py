"""An authorizer that admits who is on a list."""
