"""Trained models that are shipped: one folder each, with its card; found by name."""
