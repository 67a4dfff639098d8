"""Optimizers written elsewhere: the class that was named, its instances, and what a constant gradient shows of it."""
