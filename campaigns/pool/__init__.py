"""The materials of a campaign as columns: labels, costs, relatives."""
