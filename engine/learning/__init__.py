"""Backbones, ensembles, pre-training: what is learned from crystals."""
