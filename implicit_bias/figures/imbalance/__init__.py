"""Figures of Kunstner et al., arXiv 2402.19449."""
