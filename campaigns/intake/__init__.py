"""Import of crystals and of files of labels."""
