"""Gradient engines: one file each."""
