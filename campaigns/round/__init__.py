"""One round: embed, train, score, rank, queue; evaluated when its labels arrive."""
