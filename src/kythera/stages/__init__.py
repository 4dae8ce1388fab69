"""Bricks that instruments share: sources, simulators, reconstruction, inference."""
