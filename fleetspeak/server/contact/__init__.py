"""What happens in a contact, step by step."""
