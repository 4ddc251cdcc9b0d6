"""Timings, each printed by its own command."""
