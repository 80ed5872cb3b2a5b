"""Crystals as graphs, stored on disk by content hash."""
