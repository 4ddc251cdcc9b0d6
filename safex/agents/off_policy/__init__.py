"""Model-free agents that learn from a replay; one algorithm a file."""
