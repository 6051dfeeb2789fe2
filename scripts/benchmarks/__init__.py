"""What `scripts/bench` measures: one module for each row, each with the peer that it is held to."""
