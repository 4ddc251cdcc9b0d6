"""The training loop and everything it leaves on disk."""
