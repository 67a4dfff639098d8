"""Figures of Fan et al., arXiv 2502.04664."""
