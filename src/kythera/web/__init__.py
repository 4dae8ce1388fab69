"""The page: studies watched in a browser. It reads stores and never imports JAX."""
