"""Pre-trained bodies that turn a crystal into an embedding; the shipped weights lie beside the code."""
