"""Predictive distributions over a pool: marginals and joint draws."""
