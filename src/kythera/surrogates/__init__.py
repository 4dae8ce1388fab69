"""Learned stand-ins for simulators."""
