"""What is known of a crystal before anything is learned, and embeddings kept on disk."""
