"""A config for a data set, this machine and a budget: every choice with its reason."""
