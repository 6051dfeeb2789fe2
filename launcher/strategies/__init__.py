"""How ranks train together; `make_strategy` picks the one that the plan names."""
