"""Calculations on a queueing system: submitted, followed, collected, and repeated where the machine failed."""
