"""Models that stand for a simulator near a design: `surrogate.fit(key, samples) -> model`."""
