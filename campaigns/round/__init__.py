"""One round: embed, train, score, rank, queue; judged when its labels arrive."""
