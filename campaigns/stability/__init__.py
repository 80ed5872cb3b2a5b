"""Stability of materials: relaxation with a potential, energy above the hull, lowest phonon frequency."""
