"""Databases on the network as sources of crystals: the Materials Project, OPTIMADE providers, AFLOW."""
