"""Members together: training, stacking, calibration, evaluation, files."""
