"""From image files to uint8 batches: sources, decoding, augmentation, loaders and the demo set."""
