"""What a GPU is good for here: searches of the torch index, and a sentence encoder."""
