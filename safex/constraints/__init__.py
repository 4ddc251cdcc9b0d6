"""How the costs of a plan count: one rule a file, all behind `rule.Rule`."""
