"""From sources to the streams of a seed: splits, shifts, batches, augmentation."""
