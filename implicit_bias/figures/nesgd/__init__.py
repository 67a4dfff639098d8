"""Figures of Crawshaw et al., arXiv 2510.09827."""
