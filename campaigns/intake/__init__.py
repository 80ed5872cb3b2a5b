"""What comes in: crystals and files of labels."""
