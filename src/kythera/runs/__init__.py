"""What outlives a process: results, instruments by name, run settings. No JAX here."""
