"""Engines that run the units of a job: somebody else's work, safex hands over."""
