"""This project's own checks."""
