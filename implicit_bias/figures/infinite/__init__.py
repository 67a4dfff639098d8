"""A reconstruction of Batley and Saha, arXiv 2510.05489."""
