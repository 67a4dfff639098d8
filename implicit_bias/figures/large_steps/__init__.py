"""Figures on Wu, Bartlett, Telgarsky and Yu, arXiv 2402.15926."""
