"""Figures of Morwani et al., arXiv 2311.07568."""
