"""Figures on Ji, Srebro and Telgarsky (arXiv 2107.00595), and on mirror descent."""
