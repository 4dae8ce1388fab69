"""Results as pages and pictures. No JAX here."""
