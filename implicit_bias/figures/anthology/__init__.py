"""Figures of Bernstein and Newhouse, arXiv 2409.20325."""
