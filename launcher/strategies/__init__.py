"""How ranks train together."""
