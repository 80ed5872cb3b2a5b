"""Calculators of the lattice thermal conductivity: potentials, the quasi-harmonic Debye model, phonons."""
