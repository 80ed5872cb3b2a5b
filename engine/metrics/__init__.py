"""Accuracy, calibration and discovery metrics."""
