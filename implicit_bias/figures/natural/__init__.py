"""Figures of Shoji, Suzuki and Kozachkov, arXiv 2409.16422."""
