"""Models that a round stands on: lineage, the lower fidelity, predictors of other properties."""
