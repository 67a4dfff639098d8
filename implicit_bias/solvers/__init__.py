"""Optima of the maximum-margin problem on data of any scale, enclosed by proven bounds."""
