"""The science of kappascout: crystals, graphs, learning, acquisition and metrics; knows nothing of campaigns or SQL."""
