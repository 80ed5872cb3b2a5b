"""Crystals as graphs, kept on disk by content."""
