"""Figures of Lyu et al., arXiv 2311.18817."""
