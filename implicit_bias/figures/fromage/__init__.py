"""Figures of Bernstein, Vahdat, Yue and Liu, arXiv 2002.03432."""
