"""Figures of Gronich and Vardi, arXiv 2602.16340."""
