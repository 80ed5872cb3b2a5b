"""Where labels come from: replay, DFT, calculators."""
