"""The queue out to those who compute it, and what they computed back in."""
