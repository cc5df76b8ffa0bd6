"""What survived of a text in its memory: measured on a trained pair, which is only read."""
