"""Models and estimates outside a campaign."""
