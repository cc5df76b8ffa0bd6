"""One transformer, independent of compression."""
