"""Speed beside the usual and the leanest plain loop: ``python -m implicit_bias.bench``."""
