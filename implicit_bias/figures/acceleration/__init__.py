"""Figures of Bai and Bullins, arXiv 2409.19200."""
