"""Environments of other packages behind safex's contract.

`adapter` is the contract, `safety_gymnasium`, `bullet` and `registered` open a task of
one package each, `tasks` has the classes that a configuration names. Only opening a
task imports its package; all but `tasks` do without JAX, so that a process that steps
environments starts fast and stays small.
"""
