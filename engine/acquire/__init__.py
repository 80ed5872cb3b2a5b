"""Acquisition: which rows of a pool to compute next, and why."""
