"""Figures of Lyu and Li, arXiv 1906.05890."""
