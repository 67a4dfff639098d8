"""Figures on Liang and Sur, arXiv 2002.01586."""
