"""Blobs: how big things are held and, by reference, given to others; not what is inside them."""
