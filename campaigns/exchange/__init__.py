"""Export of the queue as inputs of calculations, and import of their results."""
