"""Networks that learn: strategies, the training loop, losses."""
