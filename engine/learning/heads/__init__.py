"""Models on embeddings: Gaussian processes, perceptrons, trees."""
