"""What a model says of a pool: marginals and joint draws."""
