"""Figures of Vardi, Shamir and Srebro, arXiv 2110.02732."""
