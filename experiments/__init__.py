"""Launchers and the tools that read what they wrote."""
