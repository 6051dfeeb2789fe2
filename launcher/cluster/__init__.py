"""Ray clusters seen from a person's machine: their names, and jobs on them."""
