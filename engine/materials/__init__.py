"""Crystals in: readers, checks, identity, duplicates; the reference table, prototypes and candidates."""
