"""Which design to look at next: one file an optimiser."""
