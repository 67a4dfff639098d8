"""Figures of Tsilivis et al., arXiv 2410.22069."""
