"""What a decoder answers from a memory: the passage's, the world's, or neither. Real text."""
