"""Optimizers of action sequences, one a file, and what they share."""
