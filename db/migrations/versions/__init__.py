"""One module a schema version, in order; revision ids are four digits."""
