"""Models that a round stands on: lineage, priors, predictors of other properties."""
