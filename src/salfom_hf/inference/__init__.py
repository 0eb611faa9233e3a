"""Frames → maps → files: the predictor, its sliding window, and what runs it on pictures, collections and cameras."""
