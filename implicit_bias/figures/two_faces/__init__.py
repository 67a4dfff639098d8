"""Figures of Fan and Szepesvari, arXiv 2609.33904."""
